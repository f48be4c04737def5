//! The conversation with sudo, held with a stand-in.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

/// Behaves as sudo does: `-n` refuses, `-S` asks three times on stderr and then runs the rest.
const FAKE_SUDO: &str = r#"#!/bin/sh
[ "$1" = -n ] && { echo "sudo: a password is required" >&2; exit 1; }
for try in 1 2 3; do
  printf %s "$3" >&2
  IFS= read -r answer || { echo >&2; echo "sudo: no password was provided" >&2; exit 1; }
  [ "$answer" = right ] && { shift 4; exec "$@"; }
  [ $try = 3 ] || echo "Sorry, try again." >&2
done
echo "sudo: 3 incorrect password attempts" >&2; exit 1
"#;

const FAKE_AGENT: &str = "#!/bin/sh\nprintf '\\npc-switcher-agent-ready\\n'; exec cat\n";

struct Answers(Mutex<Vec<&'static str>>, Mutex<Vec<String>>);

#[async_trait]
impl PasswordPrompt for Answers {
    async fn ask(&self, prompt: String) -> Result<String, ExecError> {
        self.1.lock().unwrap().push(prompt);
        let next = self.0.lock().unwrap().pop();
        match next {
            Some(answer) => Ok(answer.to_owned()),
            None => std::future::pending().await,
        }
    }
}

fn answers(in_order: &[&'static str]) -> Answers {
    Answers(Mutex::new(in_order.iter().rev().copied().collect()), Mutex::default())
}

fn starter(dir: &Path) -> Starter {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.into_os_string()
    };
    Starter {
        place: Place::Here,
        hostname: "desk".into(),
        user: "alice".into(),
        is_root: false,
        program: write("agent", FAKE_AGENT),
        sudo: write("sudo", FAKE_SUDO),
        log: Arc::new(|_, _| {}),
    }
}

#[tokio::test]
async fn a_wrong_password_is_asked_for_again_and_nothing_else_reaches_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = answers(&["wrong", "right"]);
    let greeted = starter(dir.path()).start(Some(&prompt), &CancellationToken::new()).await.unwrap();
    let prompts = prompt.1.lock().unwrap().clone();
    assert_eq!(prompts[0], "sudo password of alice on desk: ");
    assert!(prompts[1].starts_with("sorry, try again"));
    let Channel { mut stdin, mut stdout, .. } = greeted.channel;
    stdin.write_all(b"protocol").await.unwrap();
    drop(stdin);
    let mut all = Vec::new();
    stdout.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [MAGIC, b"protocol"].concat());
}

#[tokio::test]
async fn after_three_wrong_passwords_the_line_for_sudoers_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let prompt = answers(&["a", "b", "c", "right"]);
    let error = starter(dir.path()).start(Some(&prompt), &CancellationToken::new()).await.err().unwrap();
    assert!(matches!(error, ReachError::Sudo { .. }), "{error}");
    assert!(error.hint().unwrap().contains("alice ALL=(root) NOPASSWD:"));
    assert_eq!(prompt.1.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn where_nobody_can_be_asked_nobody_is() {
    let dir = tempfile::tempdir().unwrap();
    let error = starter(dir.path()).start(None, &CancellationToken::new()).await.err().unwrap();
    assert!(error.to_string().contains("no terminal"), "{error}");
}

#[tokio::test]
async fn a_question_can_be_left_unanswered() {
    let dir = tempfile::tempdir().unwrap();
    let (prompt, cancel) = (answers(&[]), CancellationToken::new());
    let starter = starter(dir.path());
    let starting = starter.start(Some(&prompt), &cancel);
    let cancelling = async {
        while prompt.1.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    let (error, ()) = tokio::join!(starting, cancelling);
    assert!(matches!(error, Err(ReachError::Exec(ExecError::Cancelled))));
}

#[tokio::test]
async fn a_program_that_is_no_agent_is_named_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut starter = starter(dir.path());
    starter.is_root = true;
    std::fs::write(&starter.program, "#!/bin/sh\necho starting; echo no such command: $1 >&2; exit 3\n")
        .unwrap();
    let error = starter.start(None, &CancellationToken::new()).await.err().unwrap();
    assert!(matches!(error, ReachError::Program { .. }), "{error}");
    assert!(error.to_string().ends_with("ended before it greeted: no such command: agent"), "{error}");
}
