//! A wire with latency between a machine's port and the bridge, in user space: netem is not in every kernel.
//!
//! Two packet sockets carry frames between the port, taken out of the bridge, and a second pair of devices that stands in
//! for it there. Each frame keeps the header in which the kernel notes offloads (`PACKET_VNET_HDR`), so that large
//! segments and unfinished checksums survive; the order of frames is kept (facts/two-machine-lab.md L23).
#![expect(unsafe_code, reason = "packet sockets have no safe wrapper in the crates that we use")]

use std::{
    io::{self, Read, Write},
    mem,
    os::fd::{FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    error::{LabError, Result},
    machine::Machine,
    tool,
};

/// The largest segment, its Ethernet head and the offload header.
const FRAME: usize = (64 << 10) + 64;

/// Frames on the way in one direction; more are dropped, as by a router.
const QUEUE: usize = 4096;

/// How often a reader looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A slow cable. Dropping it makes the cable fast again.
#[derive(Debug)]
pub struct Wire<'a> {
    machine: &'a Machine,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Machine {
    /// Makes every frame to and from this machine take so much longer, each way.
    pub fn delay(&self, each_way: Duration) -> Result<Wire<'_>> {
        self.door()?;
        let port = self.hostname().to_owned();
        let (inner, outer) = (format!("{port}-wi"), format!("{port}-wo"));
        let sockets = self.shared.hub.run(|| {
            tool::run("ip", ["link", "add", &inner, "type", "veth", "peer", "name", &outer])?;
            for name in [&inner, &outer] {
                tool::run("ip", ["link", "set", name, "up"])?;
            }
            tool::run("ip", ["link", "set", &outer, "master", "br0"])?;
            tool::run("ip", ["link", "set", &port, "nomaster"])?;
            Ok([&port, &inner].map(|name| packet_socket(name)))
        })?;
        let mut wire = Wire { machine: self, stop: Arc::default(), threads: Vec::new() };
        let [here, there] = sockets;
        let failed = || LabError::io("open a packet socket");
        let (here, there) = (here.map_err(failed())?, there.map_err(failed())?);
        let again = |socket: &OwnedFd| socket.try_clone().map_err(LabError::io("copy a packet socket"));
        for (from, to) in [(again(&here)?, again(&there)?), (there, here)] {
            wire.carry(from, to, each_way);
        }
        Ok(wire)
    }
}

impl Wire<'_> {
    /// Carries one direction: a thread reads and notes when each frame is due, another sends it then.
    fn carry(&mut self, from: OwnedFd, to: OwnedFd, delay: Duration) {
        let (send, due) = mpsc::sync_channel::<(Instant, Vec<u8>)>(QUEUE);
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            let (mut from, mut frame) = (std::fs::File::from(from), vec![0; FRAME]);
            while !stop.load(Ordering::Relaxed) {
                // Timeouts and a port that is down are waited out.
                if let Ok(length @ 1..) = from.read(&mut frame) {
                    let _ = send.try_send((Instant::now() + delay, frame[..length].to_vec()));
                }
            }
        }));
        self.threads.push(thread::spawn(move || {
            let mut to = std::fs::File::from(to);
            for (at, frame) in due {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                // A frame that cannot be sent is lost, as on any wire.
                let _ = to.write(&frame);
            }
        }));
    }
}

impl Drop for Wire<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let port = self.machine.hostname();
        // Whatever of it went with the machine's power is gone already.
        let _ = self.machine.shared.hub.run(|| {
            let _ = tool::run("ip", ["link", "set", port, "master", "br0"]);
            tool::run("ip", ["link", "del", &format!("{port}-wi")]).map(drop)
        });
    }
}

/// Opens a raw socket on a device of this thread's network namespace.
fn packet_socket(device: &str) -> io::Result<OwnedFd> {
    let index = index_of(device)?;
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain system calls; the descriptor is owned from the moment it is known to be one, the address and the
    // option values live on this stack for the time of each call, with their own sizes.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let one: libc::c_int = 1;
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
            let size = mem::size_of_val(&one) as libc::socklen_t;
            check(libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const one).cast(), size))?;
        }
        let patience = libc::timeval { tv_sec: 0, tv_usec: LOOK.as_micros() as libc::suseconds_t };
        let size = mem::size_of_val(&patience) as libc::socklen_t;
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const patience).cast(), size))?;
        let mut address: libc::sockaddr_ll = mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index;
        let size = mem::size_of_val(&address) as libc::socklen_t;
        check(libc::bind(fd, (&raw const address).cast(), size))?;
        Ok(socket)
    }
}

fn index_of(device: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: the name is a C string that lives for the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index.cast_signed()),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
