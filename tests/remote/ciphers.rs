//! Which cipher a connection takes, by what is remembered of the other machine and by what the user wants.

use std::fs;
use std::sync::{Arc, Mutex};

use crate::sshd::{Sshd, start};
use pc_switcher::remote::{RemoteEnv, TargetConnection};
use tokio_util::sync::CancellationToken;

/// Connects once, with a memory of its own, and returns the ciphers that ssh names.
async fn ciphers(sshd: &Sshd) -> Vec<String> {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&said);
    let mut env: RemoteEnv = sshd.env();
    env.hosts = Some(sshd.dir().join("state/hosts.json"));
    env.learns = true;
    env.log = Arc::new(move |_, line| heard.lock().unwrap().push(line));
    let connection =
        TargetConnection::connect("desk".as_ref(), &env, &CancellationToken::new()).await.unwrap();
    connection.disconnect().await;
    let said = said.lock().unwrap();
    let cipher = |line: &String| line.split_once("cipher: ")?.1.split(' ').next().map(str::to_owned);
    said.iter().filter(|line| line.contains("kex:")).filter_map(cipher).collect()
}

fn configure(sshd: &Sshd, more: &str) {
    let path = sshd.dir().join("ssh_config");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{text} {more}\n")).unwrap();
}

fn knows_aes() -> bool {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    cpuinfo.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "aes"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aes_is_taken_where_both_processors_know_it_and_the_user_s_own_choice_always() {
    let Some(sshd) = start("") else { return };
    configure(&sshd, "LogLevel DEBUG1");
    let memory = sshd.dir().join("state/hosts.json");
    let first = ciphers(&sshd).await;
    // This very machine is at the other end.
    assert_eq!(fs::read_to_string(&memory).unwrap(), format!("{{\"desk\":{{\"aes\":{}}}}}", knows_aes()));
    let gcm =
        |found: &[String]| found.len() == 2 && found.iter().all(|name| name == "aes128-gcm@openssh.com");
    let chacha = |found: &[String]| found.len() == 2 && found.iter().all(|name| name.starts_with("chacha20"));
    assert!(if knows_aes() { gcm(&first) } else { chacha(&first) }, "{first:?}");

    fs::write(&memory, r#"{"desk":{"aes":false}}"#).unwrap();
    let without = ciphers(&sshd).await;
    assert!(chacha(&without), "{without:?}");
    // It has been seen to have it meanwhile.
    let again = ciphers(&sshd).await;
    assert!(if knows_aes() { gcm(&again) } else { chacha(&again) }, "{again:?}");

    configure(&sshd, "Ciphers aes256-ctr");
    assert_eq!(ciphers(&sshd).await, ["aes256-ctr", "aes256-ctr"]);
}
