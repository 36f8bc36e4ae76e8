//! Access: which memory a process may read, as the system sees it.

/// Whether the byte at `address` can be read: whether the system takes it as something to write.
pub fn is_readable(address: usize) -> bool {
    let (mut reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
    // SAFETY: the system looks at the address itself, and says where it faults.
    let written =
        unsafe { libc::write(std::os::fd::AsRawFd::as_raw_fd(&writer), std::ptr::with_exposed_provenance(address), 1) };
    if written == 1 {
        std::io::Read::read_exact(&mut reader, &mut [0]).expect("the byte that was written");
    }
    written == 1
}
