//! The kernel's clock.
#![expect(unsafe_code, reason = "adjtimex has no safe wrapper in the crates that we use")]

use std::io;

/// Whether the clock follows a time server, as the kernel was told by whoever steers it. Changes nothing.
///
/// # Errors
/// If the kernel refuses to say.
pub fn follows_a_server() -> io::Result<bool> {
    // SAFETY: all zeros is a valid timex, and with no mode set the call only fills it in.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(timex.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_says_whether_its_clock_is_steered() {
        super::follows_a_server().unwrap();
    }
}
