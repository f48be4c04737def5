//! A private sshd on loopback: own host key, own authorized keys, a port from the kernel.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pc_switcher::remote::RemoteEnv;

/// A running sshd. Dropping it ends it.
pub struct Sshd {
    dir: tempfile::TempDir,
    child: Child,
}

/// Starts one, or says why this machine cannot: that is a failure where `LAB_REQUIRED` is set.
pub fn start(extra: &str) -> Option<Sshd> {
    match Sshd::start(extra) {
        Ok(sshd) => Some(sshd),
        Err(why) if std::env::var_os("LAB_REQUIRED").is_some() => panic!("no private sshd: {why}"),
        Err(why) => {
            eprintln!("skipped: no private sshd: {why}");
            None
        }
    }
}

impl Sshd {
    fn start(extra: &str) -> Result<Sshd, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it needs root".into());
        }
        let program = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists());
        let program = program.ok_or("sshd is not installed")?;
        let io = |error: std::io::Error| error.to_string();
        let dir = tempfile::Builder::new().prefix("pcs-sshd-").tempdir().map_err(io)?;
        fs::create_dir_all("/run/sshd").map_err(io)?;
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
                .arg(dir.path().join(key))
                .stdin(Stdio::null())
                .status()
                .map_err(io)?;
            if !made.success() {
                return Err("ssh-keygen failed".into());
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(io)?.port();
        let at = dir.path().display();
        fs::copy(dir.path().join("user.pub"), dir.path().join("authorized_keys")).map_err(io)?;
        let config = format!(
            "{extra}\nPort {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nPidFile none\n\
             AuthorizedKeysFile {at}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel ERROR\n"
        );
        fs::write(dir.path().join("sshd_config"), config).map_err(io)?;
        let key = fs::read_to_string(dir.path().join("host.pub")).map_err(io)?;
        fs::write(dir.path().join("known_hosts"), format!("[127.0.0.1]:{port} {key}")).map_err(io)?;
        let config = format!(
            "Host desk\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {at}/user\n\
             IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile {at}/known_hosts\n\
             GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n"
        );
        fs::write(dir.path().join("ssh_config"), config).map_err(io)?;
        let child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(dir.path().join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(io)?;
        let sshd = Sshd { dir, child };
        sshd.wait(port)?;
        Ok(sshd)
    }

    fn wait(&self, port: u16) -> Result<(), String> {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(10) {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let mut banner = [0; 4];
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                if stream.read_exact(&mut banner).is_ok() && &banner == b"SSH-" {
                    let _ = stream.write_all(b"SSH-2.0-probe\r\n");
                    return Ok(());
                }
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Err("it does not answer".into())
    }

    /// Returns the directory with its keys and files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns surroundings in which `desk` is this sshd.
    pub fn env(&self) -> RemoteEnv {
        env_of(self.dir())
    }

    /// Returns the ids of the processes that serve its connections.
    pub fn sessions(&self) -> Vec<i32> {
        let mut found = vec![self.child.id() as i32];
        let mut at = 0;
        while let Some(parent) = found.get(at).copied() {
            let path = format!("/proc/{parent}/task/{parent}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            let is_sshd = |pid: &i32| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("sshd"))
            };
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_sshd));
            at += 1;
        }
        found.split_off(1)
    }
}

/// Returns surroundings in which `desk` is the sshd whose files lie in `dir`.
pub fn env_of(dir: &Path) -> RemoteEnv {
    let runtime: PathBuf = dir.join("run");
    fs::create_dir_all(&runtime).unwrap();
    let mut env = RemoteEnv::new(0, "root", std::env::current_exe().unwrap(), "0.1.0");
    env.runtime_dir = Some(runtime);
    env.ssh_options = vec![OsString::from("-F"), dir.join("ssh_config").into_os_string()];
    env.log = std::sync::Arc::new(|level, line| eprintln!("{level} {line}"));
    env
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
