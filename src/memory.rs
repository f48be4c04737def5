//! What the allocator keeps of the memory that a program does not need any more.
#![expect(unsafe_code, reason = "the C library is told by a call that has no safe form")]

/// What is as large comes from the system and goes back to it, in bytes.
const OF_THE_SYSTEM: libc::c_int = 1 << 20;
/// What may be free at the end of a heap before it goes back, in bytes.
const FREE: libc::c_int = 16 << 20;

/// Has large pieces go back to the system as soon as they are free.
///
/// glibc raises by itself, up to 32 MiB, what it takes for large (mallopt(3)): from the first piece of that size on that was given back, all of that size come
/// from heaps, of which there is one for each thread, and stay there. A first backup of 150,000 files held 365 MiB at most, and holds 214 with
/// this, in the same time (docs/benchmarks.md). Once told, it does not give the end of a heap back a little later either, which takes time where little is left free.
pub fn give_back() {
    // SAFETY: sets numbers of the allocator, before any other thread begins.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OF_THE_SYSTEM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE);
    }
}
