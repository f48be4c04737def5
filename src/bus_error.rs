//! A disk without room, as it reaches a program that has a file of it in memory.
//!
//! SQLite keeps the index of a database's log in a file that it maps (`-shm`). Where a file system finds no room for a write to such
//! memory, the kernel has no call to fail and sends SIGBUS instead: on an ext4 that is nearly full SQLite's own file, made a
//! moment before, did so in one of six runs of `bt prune`. The process ends there like one that was killed, which everything
//! that is written here outlives; this says why, with the exit code of a full disk.
#![expect(unsafe_code, reason = "a handler of a signal has no safe form")]

use std::ffi::{c_int, c_void};

use rustix::fd::BorrowedFd;
use rustix::fs::{CWD, Mode, OFlags};

use crate::cli::Exit;

/// Longer lists of what is mapped are not read to their end.
const MAPS: usize = 128 << 10;

/// Has a write to the index of a database's log that its disk has no room for end the process with words and
/// [`Exit::DiskSpace`]. Every other SIGBUS kills, as without it.
pub fn listen() {
    // SAFETY: all fields of the action are set before it is used, and what the handler does is allowed in one: it allocates nothing and
    // takes no lock. Rust's own handler for SIGBUS tells of stacks that overflow where SIGSEGV does not, which Linux always sends.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = tell;
        action.sa_sigaction = handler as usize;
        libc::sigemptyset(&raw mut action.sa_mask);
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn tell(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives the information of this signal, and an address with this code.
    let address = unsafe { ((*info).si_code == libc::BUS_ADRERR).then(|| (*info).si_addr() as usize) };
    let mut maps = [0; MAPS];
    let file = address.and_then(|address| mapped(read_maps(&mut maps), address));
    let Some(file) = file.filter(|file| file.ends_with(b"-shm")) else {
        // SAFETY: both calls are allowed in a handler. The signal is held back until it returns; then this one kills, and so does the same
        // read or write, tried again.
        unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            if address.is_none() {
                libc::raise(libc::SIGBUS);
            }
        }
        return;
    };
    // SAFETY: the number is that of standard error, and nothing is closed; if it is gone nobody is left to tell.
    let out = unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) };
    for part in [
        b"error: cannot write to ".as_slice(),
        file,
        b": No space left on its disk (or the disk gives errors)\n  help: make room there; what was done until then counts, and the same command goes on\n",
    ] {
        if rustix::io::write(out, part).is_err() {
            break;
        }
    }
    // SAFETY: ends the process without running what it left behind, like a kill.
    unsafe { libc::_exit(i32::from(Exit::DiskSpace.code())) }
}

/// Reads what this process has in its memory, as far as there is room.
fn read_maps(into: &mut [u8]) -> &[u8] {
    let mut length = 0;
    if let Ok(file) = rustix::fs::openat(CWD, c"/proc/self/maps", OFlags::RDONLY, Mode::empty()) {
        while let Ok(count @ 1..) = rustix::io::read(&file, &mut into[length..]) {
            length += count;
        }
    }
    &into[..length]
}

/// Returns the file that is mapped at an address, by the lines of `/proc/self/maps` (proc(5)).
fn mapped(maps: &[u8], address: usize) -> Option<&[u8]> {
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        let mut words = line.splitn(2, |byte| *byte == b' ');
        let (from, to) = str::from_utf8(words.next()?).ok()?.split_once('-')?;
        let [from, to] = [from, to].map(|hex| usize::from_str_radix(hex, 16).ok());
        let rest = words.next()?;
        let path = &rest[rest.iter().position(|byte| *byte == b'/')?..];
        (from? <= address && address < to?).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_at_an_address_is_found_and_memory_without_one_has_none() {
        let maps = b"55d079808000-55d07980a000 r-xp 00000000 fe:00 12 /usr/bin/bt\n\
                     7f7469a57000-7f7469a5f000 rw-s 00000000 07:00 27 /home/a b/.local/state/c.db-shm\n\
                     7f7469a5f000-7f7469a60000 rw-p 00000000 00:00 0 \n\
                     7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n";
        let at = |address| mapped(maps, address).map(|path| str::from_utf8(path).unwrap());
        let shm = Some("/home/a b/.local/state/c.db-shm");
        assert_eq!([at(0x7f74_69a5_7000), at(0x7f74_69a5_efff)], [shm; 2]);
        assert_eq!(at(0x55d0_7980_8000), Some("/usr/bin/bt"));
        assert_eq!([at(0x7f74_69a5_f000), at(0x7ffc_0000_0000), at(0x1000)], [None; 3]);
        assert_eq!(mapped(b"nonsense\n\nx-y z /a\n", 1), None);
    }

    #[test]
    fn what_this_process_has_mapped_is_read() {
        let mut room = vec![0; MAPS];
        let here = what_this_process_has_mapped_is_read as fn() as usize;
        let program = std::env::current_exe().unwrap();
        let found = mapped(read_maps(&mut room), here).unwrap();
        assert_eq!(str::from_utf8(found).unwrap(), program.to_str().unwrap());
        // With too little room it ends at that.
        assert_eq!(read_maps(&mut room[..100]).len(), 100);
    }
}
