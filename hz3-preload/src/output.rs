//! Output: writes files that the environment names. Nothing here allocates.

use core::ffi::{CStr, c_int};
use core::fmt::Write;
use hz3_core::platform::abort;
use hz3_core::platform::linux::Linux;
use hz3_core::platform::options::{Options, Path};

/// Most bytes of a path in a warning, whose line has a limit too.
const SHOWN_BYTES: usize = 128;

/// Says `what` can't be done, for which `error`, with which path, unless the environment forbids it.
pub fn cannot(options: &Options, what: &[u8], error: c_int, path: &Path) {
    if options.shows_errors() {
        let mut shown = [0; SHOWN_BYTES];
        let used = shown.iter_mut().zip(path.bytes()).map(|(place, byte)| *place = byte).count();
        abort::warning::<Linux>(&[what, reason(error), b": ", shown.get(..used).unwrap_or(b"")]);
    }
}

/// For errors that users can do something about.
fn reason(error: c_int) -> &'static [u8] {
    match error {
        libc::EEXIST => b": the file exists and is no page of a process that has ended",
        libc::EACCES | libc::EPERM | libc::EROFS => b": no permission to write there",
        libc::ENOENT | libc::ENOTDIR => b": there is no such folder",
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => b": no space for it there",
        libc::ENAMETOOLONG => b": the name is too long",
        libc::EMFILE | libc::ENFILE => b": too many files are open",
        libc::ELOOP => b": a symbolic link is there",
        libc::EISDIR => b": it is a folder",
        _ => b"",
    }
}

/// A file's name as a C string.
pub struct Name {
    bytes: [u8; libc::PATH_MAX as usize],
    used: usize,
}

impl Name {
    /// The name in an option, with `%p` replaced by the process id.
    ///
    /// # Errors
    /// `ENAMETOOLONG`.
    pub fn of(path: &Path) -> Result<Name, c_int> {
        let mut name = Name { bytes: [0; libc::PATH_MAX as usize], used: 0 };
        let mut bytes = path.bytes().peekable();
        while let Some(byte) = bytes.next() {
            if byte == b'%' && bytes.next_if_eq(&b'p').is_some() {
                // SAFETY: no preconditions.
                write!(name, "{}", unsafe { libc::getpid() }).map_err(|_| libc::ENAMETOOLONG)?;
            } else {
                name.push(byte).ok_or(libc::ENAMETOOLONG)?;
            }
        }
        Ok(name)
    }

    /// The name as a C string.
    ///
    /// # Errors
    /// `ENAMETOOLONG`, if there is no room for the zero at its end.
    pub fn as_c_str(&self) -> Result<&CStr, c_int> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| libc::ENAMETOOLONG)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(self.used)? = byte;
        self.used += 1;
        Some(())
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        text.bytes().try_for_each(|byte| self.push(byte)).ok_or(core::fmt::Error)
    }
}

/// A buffered file to write. Keeps the first error and writes nothing after it.
pub struct File {
    descriptor: c_int,
    /// Whether to close the descriptor on drop.
    is_owned: bool,
    error: c_int,
    used: usize,
    bytes: [u8; 4096],
}

impl File {
    /// Creates or truncates the file that an option names.
    ///
    /// # Errors
    /// An `errno`: the name is too long, or the system's.
    pub fn create(path: &Path) -> Result<File, c_int> {
        Self::create_at(Name::of(path)?.as_c_str()?)
    }

    /// [`File::create`], at `path` as it is.
    ///
    /// # Errors
    /// The system's `errno`.
    pub fn create_at(path: &CStr) -> Result<File, c_int> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
        // SAFETY: `path` is a C string.
        Self::owned(unsafe { libc::open(path.as_ptr(), flags, 0o666) })
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// The first `errno`.
    pub fn finish(mut self) -> Result<(), c_int> {
        self.flush();
        if self.error == 0 { Ok(()) } else { Err(self.error) }
    }

    /// A descriptor of the program's, left open.
    pub fn borrowed(descriptor: c_int) -> File {
        File { descriptor, is_owned: false, error: 0, used: 0, bytes: [0; 4096] }
    }

    fn owned(descriptor: c_int) -> Result<File, c_int> {
        if descriptor < 0 { Err(last_error()) } else { Ok(File { is_owned: true, ..Self::borrowed(descriptor) }) }
    }

    fn flush(&mut self) {
        let mut rest = self.bytes.get(..self.used).unwrap_or(&[]);
        while !rest.is_empty() && self.error == 0 {
            // SAFETY: `rest` has that many bytes.
            let written = unsafe { libc::write(self.descriptor, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                // Some files accept nothing without an error; retrying would never end.
                Ok(0) => self.error = libc::EIO,
                Ok(written) => rest = rest.get(written..).unwrap_or(&[]),
                Err(_) => match last_error() {
                    libc::EINTR => {}
                    error => self.error = error,
                },
            }
        }
        self.used = 0;
    }

    /// Keeps `error` if it is the first.
    fn fail(&mut self, error: c_int) {
        if self.error == 0 {
            self.error = error;
        }
    }

    /// Appends the contents of the file `path`; failure to read it is this file's error.
    pub fn append(&mut self, path: &CStr) {
        // SAFETY: `path` is a C string.
        let source = match File::owned(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }) {
            Ok(source) => source,
            Err(error) => return self.fail(error),
        };
        loop {
            self.flush();
            if self.error != 0 {
                return;
            }
            // SAFETY: the flushed buffer is writable and has that many bytes.
            let read = unsafe { libc::read(source.descriptor, self.bytes.as_mut_ptr().cast(), self.bytes.len()) };
            match usize::try_from(read) {
                Ok(0) => return,
                Ok(read) => self.used = read,
                Err(_) => match last_error() {
                    libc::EINTR => {}
                    error => return self.fail(error),
                },
            }
        }
    }
}

impl Write for File {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.is_owned {
            // SAFETY: this file owns the descriptor, which is not used again.
            unsafe { libc::close(self.descriptor) };
        }
    }
}

/// The calling thread's `errno`.
pub fn last_error() -> c_int {
    // SAFETY: this thread's `errno`.
    unsafe { *libc::__errno_location() }
}
