//! Cgroup: the limit on memory of the control groups that the process is in.
//!
//! ```text
//! /proc/self/cgroup    4:memory:/a/b     version 1: memory.limit_in_bytes of /a/b, /a and /
//!                      0::/a/b           version 2: memory.max and memory.high of the same
//! ```
//!
//! The least value of all ancestors counts. In a container the path may be the host's, while the root of the mounted
//! tree is the container's: groups that are not there are passed over. Nothing is allocated, and calls go to the kernel
//! directly; a path too long for the buffer leaves the root.
//!
//! Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.

use crate::platform::kernel;
use core::ffi::CStr;

/// Longest path of a file here, with its final zero. Chosen: those of container managers take about 200 bytes.
const PATH_BYTES: usize = 320;
/// Bytes read at a time. Chosen: most processes' list of groups in one or two calls, of which each makes the whole list anew.
const CHUNK_BYTES: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The folder at which the tree is mounted.
    fn root(self) -> &'static [u8] {
        match self {
            Version::One => b"/sys/fs/cgroup/memory",
            Version::Two => b"/sys/fs/cgroup",
        }
    }

    fn files(self) -> &'static [&'static [u8]] {
        match self {
            Version::One => &[b"/memory.limit_in_bytes"],
            Version::Two => &[b"/memory.max", b"/memory.high"],
        }
    }
}

/// A bounded path.
struct Path {
    bytes: [u8; PATH_BYTES],
    used: usize,
}

impl Path {
    const fn new() -> Self {
        Self { bytes: [0; PATH_BYTES], used: 0 }
    }

    /// False, and nothing has changed, if it gets too long.
    fn append(&mut self, text: &[u8]) -> bool {
        // One byte stays 0.
        let place = self.bytes.get_mut(self.used..PATH_BYTES - 1).and_then(|rest| rest.get_mut(..text.len()));
        let Some(place) = place else { return false };
        place.copy_from_slice(text);
        self.used += text.len();
        true
    }

    fn cut(&mut self, used: usize) {
        if let Some(rest) = self.bytes.get_mut(used..self.used) {
            rest.fill(0);
            self.used = used;
        }
    }

    fn text(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or(&[])
    }

    fn as_c(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).ok()
    }
}

/// Finds the memory controller's line, byte by byte.
struct Search {
    found: Option<Version>,
    /// The root, and the group's path in the tree of `found`.
    path: Path,
    field: u8,
    /// The controller at hand: how much of `memory` it matches; `None` if it is another one.
    matched: Option<usize>,
    is_memory: bool,
    /// Whether the line has the number 0 alone, and no controllers.
    is_unified: bool,
    is_taken: bool,
    is_whole: bool,
}

impl Search {
    const fn new() -> Self {
        Self {
            found: None,
            path: Path::new(),
            field: 0,
            matched: Some(0),
            is_memory: false,
            is_unified: true,
            is_taken: false,
            is_whole: true,
        }
    }

    fn end_controller(&mut self) {
        self.is_memory |= self.matched == Some(MEMORY.len());
        self.matched = Some(0);
    }

    fn begin_path(&mut self) {
        let version = match (self.is_memory, self.is_unified) {
            (true, _) => Some(Version::One),
            // In a mixed system, memory may be in the other tree.
            (_, true) if self.found.is_none() => Some(Version::Two),
            _ => None,
        };
        self.is_taken = version.is_some();
        if let Some(version) = version {
            self.found = Some(version);
            self.path.cut(0);
            self.is_whole = self.path.append(version.root());
        }
    }

    /// Goes on to the end, as memory may come last.
    fn see(&mut self, byte: u8) -> bool {
        match (byte, self.field) {
            (b'\n', _) => {
                (self.field, self.matched) = (0, Some(0));
                (self.is_memory, self.is_unified, self.is_taken) = (false, true, false);
            }
            (b':', 0) => self.field = 1,
            (b':', 1) => {
                self.end_controller();
                self.field = 2;
                self.begin_path();
            }
            (_, 0) => self.is_unified &= byte == b'0',
            (b',', 1) => self.end_controller(),
            (_, 1) => {
                self.is_unified = false;
                self.matched = self.matched.filter(|&at| MEMORY.get(at) == Some(&byte)).map(|at| at + 1);
            }
            _ if self.is_taken => self.is_whole &= self.path.append(&[byte]),
            _ => {}
        }
        true
    }
}

const MEMORY: &[u8] = b"memory";

/// Calls `see` with each byte of the file at `path`, until it returns false; false if the file can't be opened.
#[inline(never)]
fn each_byte(path: &CStr, mut see: impl FnMut(u8) -> bool) -> bool {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let open = [libc::AT_FDCWD as usize, path.as_ptr().expose_provenance(), flags as usize];
    let mut chunk = [0; CHUNK_BYTES];
    // SAFETY: `path` is a C string.
    let Ok(file) = (unsafe { kernel::call(libc::SYS_openat, open) }) else { return false };
    loop {
        // SAFETY: at most `chunk.len()` bytes are written; the descriptor is this function's.
        let read = unsafe { kernel::call(libc::SYS_read, [file, chunk.as_mut_ptr().expose_provenance(), chunk.len()]) };
        match read {
            Err(libc::EINTR) => {}
            Err(_) | Ok(0) => break,
            Ok(count) if chunk.iter().take(count).all(|&byte| see(byte)) => {}
            Ok(_) => break,
        }
    }
    // SAFETY: the descriptor is this function's.
    let _ = unsafe { kernel::call(libc::SYS_close, [file]) };
    true
}

/// The number in the file at `path`; `usize::MAX` for a word, for more than there can be, or if there is no such file.
fn number_in(path: &CStr) -> usize {
    let (mut number, mut is_number) = (0_usize, false);
    each_byte(path, |byte| {
        let is_digit = byte.is_ascii_digit();
        if is_digit {
            is_number = true;
            number = number.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
        }
        is_digit
    });
    // "No limit" in version 1: the largest number of whole pages.
    if is_number && number < isize::MAX as usize / 2 { number } else { usize::MAX }
}

/// The least limit of the group at `path`, below `root` bytes of it, and of its ancestors.
fn least_limit(path: &mut Path, root: usize, version: Version) -> usize {
    let mut least = usize::MAX;
    loop {
        let group = path.used;
        for file in version.files() {
            if path.append(file) {
                least = path.as_c().map_or(least, |path| least.min(number_in(path)));
            }
            path.cut(group);
        }
        if group <= root {
            return least;
        }
        let parent = path.text().iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        path.cut(parent.max(root));
    }
}

/// The process's limit in bytes; `usize::MAX` if there is none, or none can be read.
pub fn memory_limit() -> usize {
    let mut search = Search::new();
    each_byte(c"/proc/self/cgroup", |byte| search.see(byte));
    let Search { found: Some(version), path, is_whole, .. } = &mut search else { return usize::MAX };
    let (root, version) = (version.root().len(), *version);
    // A group outside the container's is shown as `/..`.
    if !*is_whole || path.text().windows(3).any(|part| part == b"/..") || path.text().ends_with(b"/") {
        path.cut(root);
    }
    least_limit(path, root, version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::string::String;
    use std::vec::Vec;

    fn found(text: &str) -> (Option<Version>, String) {
        let mut search = Search::new();
        assert!(text.bytes().all(|byte| search.see(byte)));
        assert!(search.is_whole || search.path.used > PATH_BYTES - 10);
        (search.found, String::from_utf8_lossy(search.path.text()).into_owned())
    }

    #[test]
    fn the_memory_controller_s_line_comes_before_the_unified_one() {
        let path = |path: &str| String::from(path);
        assert_eq!(found("0::/\n"), (Some(Version::Two), path("/sys/fs/cgroup/")));
        assert_eq!(found("0::/a.slice/b\n"), (Some(Version::Two), path("/sys/fs/cgroup/a.slice/b")));
        let one = (Some(Version::One), path("/sys/fs/cgroup/memory/a:b"));
        assert_eq!(found("9:name=memory:/x\n4:cpu,memory:/a:b\n10:pids:/y\n0::/z\n"), one);
        assert_eq!(found("0::/z\n11:memory:/a:b"), one);
        assert_eq!(found("5:memoryx,mem,xmemory:/a\n"), (None, path("")));
        assert_eq!(found("10::/a\n"), (None, path("")));
        assert_eq!(found(""), (None, path("")));
        let mut long = path("0::");
        long.push_str(&"/abc".repeat(200));
        assert_eq!(found(&long).0, Some(Version::Two));
    }

    fn folder(name: &str) -> String {
        let folder = std::env::temp_dir().join(std::format!("hz3-cgroup-{name}-{}", std::process::id()));
        String::from(folder.to_str().expect("text"))
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn the_least_limit_of_all_ancestors_counts() {
        let root = folder("nested");
        let group = std::format!("{root}/a/missing/b");
        std::fs::create_dir_all(std::format!("{root}/a")).expect("a fresh folder");
        let write = |file: &str, text: &str| std::fs::write(std::format!("{root}/{file}"), text).expect("writable");
        let least = |version| {
            let mut path = Path::new();
            assert!(path.append(group.as_bytes()));
            let least = least_limit(&mut path, root.len(), version);
            assert_eq!(path.text(), root.as_bytes());
            least
        };
        assert_eq!((least(Version::One), least(Version::Two)), (usize::MAX, usize::MAX));
        write("memory.max", "max\n");
        write("a/memory.high", "max\n");
        assert_eq!(least(Version::Two), usize::MAX);
        write("a/memory.max", "734003200\n");
        assert_eq!(least(Version::Two), 734_003_200);
        write("a/memory.high", "1000\n");
        write("memory.max", "2000\n");
        assert_eq!(least(Version::Two), 1000);
        write("memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(least(Version::One), usize::MAX);
        write("a/memory.limit_in_bytes", "99999999999999999999999999\n");
        assert_eq!(least(Version::One), usize::MAX);
        write("memory.limit_in_bytes", "4096\n");
        assert_eq!(least(Version::One), 4096);
        std::fs::remove_dir_all(&root).expect("its own");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri runs no assembly")]
    fn a_file_longer_than_a_chunk_is_read_to_its_end() {
        let file = folder("chunks");
        let text: Vec<u8> = (0..1000_u32).map(|number| b'a' + (number % 26) as u8).collect();
        std::fs::write(&file, &text).expect("writable");
        let (mut seen, path) = (Vec::new(), CString::new(file.as_str()).expect("no zero"));
        let mut see = |byte| {
            seen.push(byte);
            byte != b'!'
        };
        assert!(each_byte(&path, &mut see));
        std::fs::write(&file, "12!3").expect("writable");
        assert!(each_byte(&path, &mut see));
        assert!(!each_byte(c"/nonexistent", &mut see));
        let whole: Vec<u8> = text.iter().copied().chain(*b"12!").collect();
        assert_eq!(seen, whole);
        std::fs::remove_file(&file).expect("its own");
    }
}
