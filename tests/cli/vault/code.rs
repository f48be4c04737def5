//! A code on paper, where the passphrase is forgotten.

use super::*;

#[test]
fn a_code_on_paper_opens_a_vault_in_the_place_of_the_passphrase() {
    let home = Home::ready();
    home.put("letter", "dear");
    home.bt(&["backup", "--tracked"]);
    let output = home.command(&["config", "vault", "recovery-code"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let code = text(&output.stdout).trim_end().to_owned();
    assert!(code.len() == 39 && text(&output.stderr).contains("opens the vault `local`"), "{code}");
    assert!(!text(&fs::read(home.state().join("log/bt.log")).unwrap()).contains(&code));
    assert!(!home.bt(&["history"]).contains(&code[..9]));

    let with = |word: &str, args: &[&str]| {
        home.command(args).env("PC_SWITCHER_VAULT_PASSWORD", word).output().unwrap()
    };
    let typed = code.replace('-', " ").to_lowercase();
    for word in ["correct horse", &code, &typed] {
        let output = with(word, &["check", "--read-data"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let last = if code.ends_with('7') { '8' } else { '7' };
    let wrong = format!("{}{last}", &code[..38]);
    for word in ["another", &wrong] {
        let said = ended(3, &["check"], &with(word, &["check"]));
        assert!(said.contains("does not open the vault"), "{said}");
    }
    let root = home.state().join("local");
    if let Some(keys) = restic(&root, &["key", "list", "--json"]) {
        assert!(keys.contains("recovery-code"), "{keys}");
        let mut command = Command::new("restic");
        command.args(["--no-cache", "--repo"]).arg(&root).arg("snapshots").env("RESTIC_PASSWORD", &code);
        assert!(command.output().unwrap().status.success(), "restic takes it as it is printed");
    }

    // The laptop is gone, and nobody knows the passphrase.
    let new = Home::new();
    new.bt(&["config", "init", "--root", root.to_str().unwrap()]);
    let host = home.json(&["config", "list"])["host_id"].as_str().unwrap().to_owned();
    let mut command = new.command(&["recover", "--from", &host, "--take-over"]);
    let output = command.env("PC_SWITCHER_VAULT_PASSWORD", &typed).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
