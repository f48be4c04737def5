//! What every executor promises, proven on each of them: on this machine and over a private sshd.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::processes::{sleepers, unique_seconds, wait_for_sleepers};
use pc_switcher::remote::{LocalExecutor, TargetConnection};
use pc_switcher_contract::{Cmd, ExecError, Executor, OutputLine};
use pc_switcher_testkit::model::{Disk, ModelExecutor};
use tokio_util::sync::CancellationToken;

/// An executor and what it needs to live.
struct Subject {
    executor: Arc<dyn Executor>,
    _kept: Box<dyn std::any::Any + Send + Sync>,
}

async fn local() -> Option<Subject> {
    let executor = Arc::new(LocalExecutor::new("here".parse().unwrap()));
    Some(Subject { executor, _kept: Box::new(()) })
}

async fn modelled() -> Option<Subject> {
    let disk = Arc::new(Disk::new("model".parse().unwrap()).unwrap());
    Some(Subject { executor: Arc::new(ModelExecutor::new(&disk)), _kept: Box::new(()) })
}

async fn over_ssh(extra: &str) -> Option<Subject> {
    let sshd = crate::sshd::start(extra)?;
    let connection = connect(&sshd).await;
    let executor = Arc::new(connection.executor().clone());
    Some(Subject { executor, _kept: Box::new((connection, sshd)) })
}

async fn connect(sshd: &crate::sshd::Sshd) -> TargetConnection {
    let cancel = CancellationToken::new();
    TargetConnection::connect("desk".as_ref(), &sshd.env(), &cancel).await.unwrap()
}

fn shell(script: &str) -> Cmd {
    Cmd::new("sh").args(["-c", script])
}

async fn exit_codes_arrive_as_they_are(executor: Arc<dyn Executor>) {
    for code in [0, 1, 7, 126, 127, 128, 255] {
        let output = executor.run(shell(&format!("exit {code}")).into()).await.unwrap();
        assert_eq!(output.code, code);
        assert_eq!((output.stdout, output.stderr), (vec![], vec![]), "{code}");
    }
    let killed = executor.run(shell("kill -s KILL $$").into()).await.unwrap();
    assert_eq!(killed.code, 128 + 9);
}

async fn a_missing_program_is_an_error_and_no_exit_code(executor: Arc<dyn Executor>) {
    let error = executor.run(Cmd::new("no-such-program-here").into()).await.unwrap_err();
    assert!(
        matches!(error, ExecError::Spawn { ref program, .. } if program == "no-such-program-here"),
        "{error}"
    );
}

async fn a_flood_on_stderr_blocks_nothing(executor: Arc<dyn Executor>) {
    let script = "head -c 1048576 /dev/zero >&2; echo done; head -c 1048576 /dev/zero >&2";
    let output = executor.run(shell(script).into()).await.unwrap();
    assert_eq!((output.stderr.len(), output.stdout.as_slice()), (2 << 20, b"done\n".as_slice()));
}

async fn arguments_arrive_byte_by_byte(executor: Arc<dyn Executor>) {
    let odd: [&[u8]; 9] = [
        b"",
        b"a b",
        b"a\nb\n",
        b"'\"`$HOME\\",
        b"\xff\xfe not utf-8",
        b"!!",
        b"*",
        b"-n",
        b"~/$(id) ; exit 3",
    ];
    let mut cmd = Cmd::new("printf").arg("%s\\0");
    let mut wanted = Vec::new();
    for word in odd {
        cmd = cmd.arg(OsString::from_vec(word.to_vec()));
        wanted.extend_from_slice(word);
        wanted.push(0);
    }
    assert_eq!(executor.run(cmd.into()).await.unwrap().stdout, wanted);
}

async fn a_long_argument_list_arrives(executor: Arc<dyn Executor>) {
    let cmd = Cmd::new("printf").arg("%s\\n").args((0..20_000).map(|number| format!("argument-{number}")));
    let output = executor.run(cmd.into()).await.unwrap();
    assert_eq!(output.stdout_text().lines().count(), 20_000);
}

async fn input_arrives_byte_by_byte_and_ends(executor: Arc<dyn Executor>) {
    for len in [0, 1, 262_143, 262_144, 1_000_003] {
        let bytes: Vec<u8> = (0..len).map(|at: usize| (at * 7 + at / 251) as u8).collect();
        let output = executor.run(Cmd::new("cat").stdin(bytes.clone()).into()).await.unwrap();
        assert!(output.ok() && output.stdout == bytes, "{len}");
    }
}

async fn input_that_nobody_reads_blocks_nothing(executor: Arc<dyn Executor>) {
    let output = executor.run(Cmd::new("true").stdin(vec![b'\n'; 4 << 20]).into()).await.unwrap();
    assert!(output.ok());
}

async fn numbers_are_not_written_in_the_user_s_language(executor: Arc<dyn Executor>) {
    let output = executor.run(shell("echo $LC_ALL").into()).await.unwrap();
    assert_eq!(output.stdout, b"C.UTF-8\n");
}

async fn a_late_command_ends_with_its_grandchildren(executor: Arc<dyn Executor>) {
    let seconds = unique_seconds();
    let script =
        format!("trap '' TERM; sleep {seconds} & sh -c 'sleep {seconds}; :' & wait; sleep {seconds}");
    let since = Instant::now();
    let error = executor.run(shell(&script).timeout(Duration::from_secs(1)).into()).await.unwrap_err();
    assert!(matches!(error, ExecError::Timeout { seconds: 1, .. }), "{error}");
    assert!(since.elapsed() < Duration::from_secs(8));
    assert!(wait_for_sleepers(&seconds, 0).await);
}

async fn a_group_ends_with_its_leader(executor: Arc<dyn Executor>) {
    let seconds = unique_seconds();
    let output = executor.run(shell(&format!("sleep {seconds} & exit 3")).into()).await.unwrap();
    assert_eq!(output.code, 3);
    assert!(wait_for_sleepers(&seconds, 0).await);
}

async fn lines_come_while_the_command_runs(executor: Arc<dyn Executor>) {
    let script = "printf '1%%\\r2%%\\r\\nout\\n'; echo err >&2; read x; echo late; exit 4";
    let mut spawned = executor.spawn(shell(script).into()).await.unwrap();
    let mut lines = BTreeSet::new();
    while let Some(line) = spawned.lines.recv().await {
        lines.insert(match line {
            OutputLine::Stdout(bytes) => format!("out {}", String::from_utf8_lossy(&bytes)),
            OutputLine::Stderr(bytes) => format!("err {}", String::from_utf8_lossy(&bytes)),
        });
    }
    let wanted = ["out 1%", "out 2%", "out out", "err err", "out late"].map(str::to_owned);
    assert_eq!(lines, BTreeSet::from(wanted));
    assert_eq!(spawned.exit.await.unwrap(), Ok(4));
}

async fn dropping_a_running_command_ends_its_group(executor: Arc<dyn Executor>) {
    let seconds = unique_seconds();
    let spawned = executor.spawn(shell(&format!("sleep {seconds} & sleep {seconds}")).into()).await.unwrap();
    assert!(wait_for_sleepers(&seconds, 2).await);
    drop(spawned);
    assert!(wait_for_sleepers(&seconds, 0).await);

    let running = executor.run(shell(&format!("sleep {seconds}; :")).into());
    let _ = tokio::time::timeout(Duration::from_millis(500), running).await;
    assert!(wait_for_sleepers(&seconds, 0).await);
}

async fn terminating_all_ends_stubborn_groups_and_counts_them(executor: Arc<dyn Executor>) {
    let seconds = unique_seconds();
    let stubborn = format!("trap '' TERM; sleep {seconds}; sleep {seconds}");
    let one = executor.spawn(shell(&stubborn).into()).await.unwrap();
    let two = executor.spawn(shell(&format!("sleep {seconds}; :")).into()).await.unwrap();
    assert!(wait_for_sleepers(&seconds, 2).await);
    assert_eq!(executor.terminate_all(Duration::from_millis(300)).await, 2);
    assert!(sleepers(&seconds).is_empty());
    assert_eq!(one.exit.await.unwrap(), Err(ExecError::Cancelled));
    assert_eq!(two.exit.await.unwrap(), Err(ExecError::Cancelled));
    assert_eq!(executor.terminate_all(Duration::from_millis(300)).await, 0);
    assert!(executor.run(Cmd::new("true").into()).await.unwrap().ok());
}

async fn many_commands_at_once_all_succeed(executor: Arc<dyn Executor>) {
    let runs = (0..20).map(|number| {
        let executor = Arc::clone(&executor);
        async move { executor.run(shell(&format!("sleep 0.1; echo {number}")).into()).await }
    });
    for (number, output) in futures::future::join_all(runs).await.into_iter().enumerate() {
        assert_eq!(output.unwrap().stdout_text(), format!("{number}\n"));
    }
}

async fn sudo_without_an_agent_is_an_error(executor: Arc<dyn Executor>) {
    let error = executor.run(Cmd::new("true").sudo().into()).await.unwrap_err();
    assert!(matches!(error, ExecError::Failed { .. }), "{error}");
}

async fn what_runs_ends_when_it_is_dropped_or_ended_and_late_commands_are_errors(
    executor: Arc<dyn Executor>,
) {
    let sleep = |seconds: &str| Cmd::new("sleep").arg(seconds);
    let [one, two] = [executor.spawn(sleep("600").into()), executor.spawn(sleep("600").into())];
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_eq!(executor.terminate_all(Duration::from_secs(5)).await, 2);
    assert_eq!(one.exit.await.unwrap(), Err(ExecError::Cancelled));
    assert_eq!(two.exit.await.unwrap(), Err(ExecError::Cancelled));
    drop(executor.spawn(sleep("600").into()).await.unwrap());
    let late = executor.run(sleep("600").timeout(Duration::from_secs(1)).into()).await.unwrap_err();
    assert!(matches!(late, ExecError::Timeout { seconds: 1, .. }), "{late}");
    // What was given up may still be on its way out over there, but nothing outlives this.
    executor.terminate_all(Duration::from_secs(5)).await;
    assert_eq!(executor.terminate_all(Duration::from_secs(5)).await, 0);
    let mut short = executor.spawn(sleep("0.05").into()).await.unwrap();
    assert_eq!(short.lines.recv().await, None);
    assert_eq!(short.exit.await.unwrap(), Ok(0));
    assert!(executor.run(Cmd::new("true").into()).await.unwrap().ok());
}

macro_rules! contract {
    ($module:ident, $subject:expr, [$($promise:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let Some(subject) = $subject.await else { return };
                    super::$promise(Arc::clone(&subject.executor)).await;
                }
            )*
        }
    };
}

macro_rules! every_promise {
    ($module:ident, $subject:expr) => {
        contract!(
            $module,
            $subject,
            [
                exit_codes_arrive_as_they_are,
                a_missing_program_is_an_error_and_no_exit_code,
                a_flood_on_stderr_blocks_nothing,
                arguments_arrive_byte_by_byte,
                a_long_argument_list_arrives,
                input_arrives_byte_by_byte_and_ends,
                input_that_nobody_reads_blocks_nothing,
                numbers_are_not_written_in_the_user_s_language,
                a_late_command_ends_with_its_grandchildren,
                a_group_ends_with_its_leader,
                lines_come_while_the_command_runs,
                dropping_a_running_command_ends_its_group,
                terminating_all_ends_stubborn_groups_and_counts_them,
                many_commands_at_once_all_succeed,
                sudo_without_an_agent_is_an_error,
                what_runs_ends_when_it_is_dropped_or_ended_and_late_commands_are_errors,
            ]
        );
    };
}

every_promise!(on_this_machine, local());
every_promise!(over_a_connection, over_ssh(""));
contract!(on_a_model, modelled(), [what_runs_ends_when_it_is_dropped_or_ended_and_late_commands_are_errors]);
contract!(
    where_two_sessions_are_allowed,
    over_ssh("MaxSessions 2"),
    [many_commands_at_once_all_succeed, terminating_all_ends_stubborn_groups_and_counts_them,]
);
