//! The connection itself, over a private sshd: it comes about, it ends, it breaks, and nothing stays behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::processes::{unique_seconds, wait_for_sleepers};
use crate::sshd::{Sshd, start};
use pc_switcher::remote::{ConnectError, ConnectionState, Reach, ReachError, RemoteEnv, TargetConnection};
use pc_switcher_agent::frame::{FrameKind, Head};
use pc_switcher_agent::proto::{AgentHello, MAGIC, PROTOCOL, encode};
use pc_switcher_contract::{
    AgentLink, BytePath, Cmd, ErrorKind, ExecError, Executor, RemoteExecutor, SendFile, WriteLicence,
};
use tokio_util::sync::CancellationToken;

async fn connect(env: &RemoteEnv) -> Result<TargetConnection, ReachError> {
    TargetConnection::connect("desk".as_ref(), env, &CancellationToken::new()).await
}

fn edit(sshd: &Sshd, file: &str, from: &str, to: &str) {
    let path = sshd.dir().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn pids_of(word: &Path) -> Vec<i32> {
    let word = word.to_string_lossy().into_owned();
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| name.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&word)
        })
        .collect()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_comes_about_knows_the_machine_s_own_name_and_ends() {
    let Some(sshd) = start("") else { return };
    let env = sshd.env();
    let connection = connect(&env).await.unwrap();
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(connection.hostname().as_str(), own.trim());
    assert_eq!(connection.state(), ConnectionState::Connected);
    connection.disconnect().await;
    assert_eq!(connection.state(), ConnectionState::Disconnected);
    connection.disconnect().await;
    let error = connection.executor().run(Cmd::new("true").into()).await.unwrap_err();
    assert!(matches!(error, ExecError::Transport { .. }), "{error}");
    drop(connection);
    let left: Vec<_> = fs::read_dir(sshd.dir().join("run/pc-switcher")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_apart() {
    let Some(sshd) = start("") else { return };
    let env = sshd.env();
    let refusal = async || match connect(&env).await {
        Err(ReachError::Connect(error)) => {
            assert!(error.hint().is_some());
            error
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it connected"),
    };
    edit(&sshd, "ssh_config", "known_hosts", "known_nobody");
    assert!(matches!(refusal().await, ConnectError::HostKeyUnknown { .. }));
    edit(&sshd, "ssh_config", "known_nobody", "known_hosts");

    let known = fs::read_to_string(sshd.dir().join("known_hosts")).unwrap();
    let other = fs::read_to_string(sshd.dir().join("user.pub")).unwrap();
    let address = known.split(' ').next().unwrap();
    fs::write(sshd.dir().join("known_hosts"), format!("{address} {other}")).unwrap();
    assert!(matches!(refusal().await, ConnectError::HostKeyChanged { .. }));
    fs::write(sshd.dir().join("known_hosts"), known).unwrap();

    edit(&sshd, "ssh_config", "/user\n", "/host\n");
    assert!(matches!(refusal().await, ConnectError::AuthenticationRefused { .. }));
    edit(&sshd, "ssh_config", "HostName 127.0.0.1", "HostName no-such-host.invalid");
    assert!(matches!(refusal().await, ConnectError::NameNotResolved { .. }));
    edit(&sshd, "ssh_config", "HostName no-such-host.invalid\n Port", "HostName 127.0.0.1\n Port 1\n #");
    let unreachable = refusal().await;
    assert!(matches!(unreachable, ConnectError::Unreachable { .. }), "{unreachable}");
    assert_eq!(ReachError::from(unreachable).kind(), ErrorKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_connect_leaves_no_ssh_behind() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    let port = listener.local_addr().unwrap().port();
    fs::write(&config, format!("Host desk\n HostName 127.0.0.1\n Port {port}\n")).unwrap();
    let mut env = RemoteEnv::new(0, "root", "/proc/self/exe", "0.1.0");
    env.temp_dir = dir.path().to_owned();
    env.ssh_options = vec!["-F".into(), config.clone().into_os_string()];
    let cancel = CancellationToken::new();
    let connecting = TargetConnection::connect("desk".as_ref(), &env, &cancel);
    tokio::spawn({
        let (cancel, config) = (cancel.clone(), config.clone());
        async move {
            until("ssh runs", || !pids_of(&config).is_empty()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            cancel.cancel();
        }
    });
    let error = connecting.await.err().unwrap();
    assert!(matches!(error, ReachError::Connect(ConnectError::Cancelled)), "{error}");
    assert!(pids_of(&config).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_noticed_and_leaves_no_remote_process() {
    let Some(sshd) = start("") else { return };
    let connection = connect(&sshd.env()).await.unwrap();
    let seconds = unique_seconds();
    let script = format!("trap '' TERM; sleep {seconds} & sleep {seconds}; :");
    let spawned = connection.executor().spawn(Cmd::new("sh").args(["-c", &script]).into()).await.unwrap();
    assert!(wait_for_sleepers(&seconds, 2).await);
    signal(&pids_of(&sshd.dir().join("run/pc-switcher")), rustix::process::Signal::KILL);
    let lost = tokio::time::timeout(Duration::from_secs(5), connection.lost()).await.unwrap();
    assert!(matches!(lost, ExecError::Transport { .. }), "{lost}");
    assert!(matches!(spawned.exit.await.unwrap(), Err(ExecError::Transport { .. })));
    assert_eq!(connection.state(), ConnectionState::Error);
    assert!(wait_for_sleepers(&seconds, 0).await);
    connection.disconnect().await;
    assert_eq!(connection.state(), ConnectionState::Disconnected);
}

fn signal(pids: &[i32], signal: rustix::process::Signal) {
    for pid in pids {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(*pid).unwrap(), signal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_and_a_closed_terminal_leave_the_master_alone() {
    let Some(sshd) = start("") else { return };
    let connection = connect(&sshd.env()).await.unwrap();
    let master = pids_of(&sshd.dir().join("run/pc-switcher"));
    assert_eq!(master.len(), 1);
    for unwanted in
        [rustix::process::Signal::INT, rustix::process::Signal::QUIT, rustix::process::Signal::HUP]
    {
        signal(&master, unwanted);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(connection.executor().run(Cmd::new("true").into()).await.unwrap().ok());
    connection.disconnect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_target_is_noticed() {
    let Some(sshd) = start("") else { return };
    let mut env = sshd.env();
    // What stands first holds.
    env.ssh_options.extend(["-o".into(), "ServerAliveInterval=1".into()]);
    let connection = connect(&env).await.unwrap();
    let seconds = unique_seconds();
    let running = connection.executor().run(Cmd::new("sleep").arg(&seconds).into());
    let freezing = async {
        assert!(wait_for_sleepers(&seconds, 1).await);
        let sessions = sshd.sessions();
        assert!(!sessions.is_empty());
        signal(&sessions, rustix::process::Signal::STOP);
        let lost = tokio::time::timeout(Duration::from_secs(10), connection.lost()).await;
        signal(&sessions, rustix::process::Signal::CONT);
        lost.unwrap()
    };
    let (output, lost) = tokio::join!(running, freezing);
    assert!(matches!(output, Err(ExecError::Transport { .. })), "{output:?}");
    assert!(lost.to_string().contains("not responding"), "{lost}");
    assert!(wait_for_sleepers(&seconds, 0).await);
}

/// Started by the next test in a process of its own, and killed there.
#[test]
#[ignore = "the other half of a test"]
fn connects_and_waits_for_its_end() {
    let dir = std::path::PathBuf::from(std::env::var_os("TEST_SSHD_DIR").unwrap());
    let seconds = std::env::var("TEST_SECONDS").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = connect(&crate::sshd::env_of(&dir)).await.unwrap();
        let here = pc_switcher::remote::LocalExecutor::new("here".parse().unwrap());
        let script = format!("trap '' TERM HUP; sleep {seconds} & sleep {seconds}; :");
        let cmd = || Cmd::new("sh").args(["-c", &script]);
        let _ = tokio::join!(connection.executor().run(cmd().into()), here.run(cmd().into()));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_we_are_killed_nothing_of_ours_survives_on_either_machine() {
    let Some(sshd) = start("") else { return };
    let seconds = unique_seconds();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "connection::connects_and_waits_for_its_end"])
        .env("TEST_SSHD_DIR", sshd.dir())
        .env("TEST_SECONDS", &seconds)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let running = wait_for_sleepers(&seconds, 4).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(running);
    assert!(wait_for_sleepers(&seconds, 0).await);
    let sockets = sshd.dir().join("run/pc-switcher");
    until("the master is gone", || pids_of(&sockets).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sent_file_appears_whole_with_its_mode_or_not_at_all() {
    let Some(sshd) = start("") else { return };
    let connection = connect(&sshd.env()).await.unwrap();
    let licence = WriteLicence::grant();
    let (local, dir) = (sshd.dir().join("local"), sshd.dir().join("to 'here'\n"));
    fs::create_dir(&dir).unwrap();
    let bytes: Vec<u8> = (0..700_001_usize).map(|at| (at * 31 + at / 257) as u8).collect();
    let send = async |bytes: &[u8], path: &Path, mode: u32| {
        fs::write(&local, bytes).unwrap();
        let owner = Some((12, 34));
        let file = SendFile { local: local.clone(), remote: BytePath::from(path), mode, owner, sudo: false };
        connection.executor().send_file(&file, &licence).await
    };
    for (bytes, mode) in [(&bytes[..], 0o640), (&bytes[..3], 0o4755), (&[][..], 0o600)] {
        send(bytes, &dir.join("file"), mode).await.unwrap();
        let meta = fs::metadata(dir.join("file")).unwrap();
        assert_eq!(fs::read(dir.join("file")).unwrap(), bytes);
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), (mode, 12, 34));
    }
    let refused = send(b"x", &dir, 0o600).await.unwrap_err();
    assert!(matches!(refused, ExecError::Failed { .. }), "{refused}");
    let refused = send(b"x", &dir.join("missing/file"), 0o600).await.unwrap_err();
    assert!(matches!(refused, ExecError::Failed { .. }), "{refused}");
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
}

/// A program that greets as an agent does, and listens until its stdin ends.
fn stand_in(dir: &Path, version: &str) -> std::path::PathBuf {
    let hello = AgentHello {
        protocol: PROTOCOL,
        version: version.into(),
        hostname: "stand-in".parse().unwrap(),
        machine_id: "0".repeat(32),
        uid: 0,
        pid: 1,
        digest: [0; 32],
    };
    let body = encode(&hello);
    let greeting =
        [MAGIC, &Head { call: 0, kind: FrameKind::Hello, len: body.len(), is_packed: false }.encode(), &body]
            .concat();
    fs::write(dir.join("greeting"), greeting).unwrap();
    let script = format!(
        "#!/bin/sh\ncase $1 in\n--version) echo pc-switcher {version} ;;\n\
         agent) echo started >&2; cat {}/greeting; exec cat >/dev/null ;;\nesac\n",
        dir.display()
    );
    let path = dir.join("stand-in");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_without_our_program_gets_it_and_its_agent_ends_with_us() {
    let Some(sshd) = start("") else { return };
    let mut env = sshd.env();
    // Newer than anything installed here, so that it is pushed.
    env.version = "999.0.0".into();
    env.own_exe = stand_in(sshd.dir(), "999.0.0");
    env.own_image = env.own_exe.clone();
    let cancel = CancellationToken::new();
    let reach = Reach::new(env, None);

    let local = reach.start_local_agent(&"here".parse().unwrap(), &cancel).await.unwrap();
    assert_eq!(local.link.hostname().as_str(), "stand-in");
    assert!(local.process.close(Duration::from_secs(5)).await);

    let connection = reach.connect("desk".as_ref(), &cancel).await.unwrap();
    let prepared = reach.prepare_target(&connection, &cancel).await.unwrap();
    assert!(prepared.needs_activation());
    let pushed = prepared.pushed.clone().unwrap();
    assert_eq!(fs::metadata(&pushed.path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&pushed.dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!pids_of(Path::new(&pushed.path)).is_empty() || prepared.agent.hello.version == "999.0.0");

    assert!(prepared.agent.process.close(Duration::from_secs(5)).await);
    reach.remove_pushed(&connection, &pushed).await.unwrap();
    assert!(!Path::new(&pushed.dir).exists());
    connection.disconnect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authentication_serves_agent_and_commands_where_two_sessions_are_allowed() {
    let Some(sshd) = start("MaxSessions 2") else { return };
    let mut env = sshd.env();
    env.version = "999.0.0".into();
    env.own_exe = stand_in(sshd.dir(), "999.0.0");
    env.own_image = env.own_exe.clone();
    let cancel = CancellationToken::new();
    let reach = Reach::new(env, None);
    let connection = reach.connect("desk".as_ref(), &cancel).await.unwrap();
    let prepared = reach.prepare_target(&connection, &cancel).await.unwrap();
    let runs = (0..6).map(|_| connection.executor().run(Cmd::new("sleep").arg("0.05").into()));
    for output in futures::future::join_all(runs).await {
        assert!(output.unwrap().ok());
    }
    assert!(prepared.agent.process.close(Duration::from_secs(5)).await);
    reach.remove_pushed(&connection, &prepared.pushed.unwrap()).await.unwrap();
}
