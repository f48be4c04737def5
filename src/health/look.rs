//! Looking.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pc_switcher_agent::typed::Agent;
use pc_switcher_contract::{Action, Cmd, Executor, Output, Threshold, human_bytes};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::scripts::{self, Script};
use super::{Checked, State};

/// How long a check may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long sshd may take to say its name.
const GREETING: Duration = Duration::from_secs(10);

/// Where to look.
pub struct Place<'a> {
    /// Runs commands, elevated ones too.
    pub executor: &'a dyn Executor,
    /// The elevated half.
    pub agent: &'a Agent,
    /// Whether it is this machine; another one is asked for a new login from outside.
    pub is_here: bool,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// Below this the disk counts as full.
    pub reserve: Threshold,
    /// Where people's own checks lie.
    pub scripts: &'a Path,
}

/// Looks at everything. What cannot be looked at is red or absent, never an error. All commands go through the elevated half:
/// what keeps people from logging in does not keep them from running.
pub async fn look(place: &Place<'_>) -> Vec<Checked> {
    let mut found = vec![
        Checked::required("packages", packages(place).await),
        Checked::required("sshd's configuration", sshd_config(place).await),
        Checked::required("ssh", ssh(place).await),
        Checked::required("home", home(place).await),
        Checked::required("disk space", space(place).await),
    ];
    found.extend(units(place).await);
    found.extend(own(place).await);
    found
}

async fn run(place: &Place<'_>, cmd: Cmd) -> Option<Output> {
    let output = place.executor.run(Action::Read(cmd.timeout(LIMIT))).await.ok()?;
    // No such program.
    (output.code != 127).then_some(output)
}

/// Returns the last line of what a command said.
fn last_line(output: &Output) -> String {
    let said = format!("{}\n{}", output.stdout_text(), output.stderr_text());
    let line = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    line.unwrap_or_else(|| format!("`{}` ended with {}", output.command, output.code))
}

/// Whether systemd says that no sshd is to be started.
async fn is_disabled(place: &Place<'_>) -> bool {
    let units = ["ssh.service", "sshd.service", "ssh.socket", "sshd.socket"];
    let said = run(place, Cmd::new("systemctl").arg("is-enabled").args(units)).await;
    let said = said.map(|output| output.stdout_text()).unwrap_or_default();
    let word =
        |line: &str| matches!(line.trim(), "disabled" | "masked" | "not-found" | "static" | "indirect");
    said.lines().any(|line| line.trim() == "disabled") && said.lines().all(word)
}

async fn packages(place: &Place<'_>) -> State {
    match run(place, Cmd::new("dpkg").arg("--audit").sudo()).await {
        None => State::Absent,
        Some(output) if output.ok() && output.stdout.iter().all(u8::is_ascii_whitespace) => State::Green,
        Some(output) => {
            State::Red(format!("half-installed packages (`dpkg --audit`): {}", last_line(&output)))
        }
    }
}

async fn sshd_config(place: &Place<'_>) -> State {
    match run(place, Cmd::new("sshd").arg("-t").sudo()).await {
        None => State::Absent,
        Some(output) if output.ok() => State::Green,
        Some(output) => State::Red(last_line(&output)),
    }
}

/// Whether sshd greets a new connection, on one of the ports that its configuration names.
async fn ssh(place: &Place<'_>) -> State {
    if !place.is_here {
        return State::Absent;
    }
    let ports = match run(place, Cmd::new("sshd").arg("-T").sudo()).await {
        // Nobody is to answer.
        None => return State::Absent,
        Some(output) if output.ok() => ports(&output.stdout_text()),
        Some(_) => Vec::new(),
    };
    let ports = if ports.is_empty() { vec![22] } else { ports };
    for port in &ports {
        if tokio::time::timeout(GREETING, greets(*port)).await.unwrap_or(false) {
            return State::Green;
        }
    }
    if is_disabled(place).await {
        return State::Absent;
    }
    State::Red(format!("nobody answers on port {}", ports[0]))
}

fn ports(config: &str) -> Vec<u16> {
    config.lines().filter_map(|line| line.strip_prefix("port ")?.trim().parse().ok()).collect()
}

async fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await else {
        return false;
    };
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).await.is_ok() && greeting == *b"SSH-"
}

async fn home(place: &Place<'_>) -> State {
    let Some(home) = &place.home else { return State::Absent };
    let list = Cmd::new("find").arg(home).args(["-maxdepth", "1", "-false"]).sudo();
    match run(place, list).await {
        None => State::Absent,
        Some(output) if output.ok() => State::Green,
        Some(output) => State::Red(last_line(&output)),
    }
}

async fn space(place: &Place<'_>) -> State {
    let reports = match place.agent.space(vec!["/".into()]).await {
        Ok(reports) => reports,
        Err(error) => return State::Red(error.to_string()),
    };
    let short =
        reports.iter().find(|report| report.available_bytes < place.reserve.bytes_of(report.size_bytes));
    short.map_or(State::Green, |report| {
        let free = human_bytes(report.available_bytes);
        State::Red(format!("`{}` has {free} free, less than [disk] reserve_minimum", report.path))
    })
}

/// Each failed unit by itself.
async fn units(place: &Place<'_>) -> Vec<Checked> {
    let list = Cmd::new("systemctl").args(["list-units", "--failed", "--plain", "--no-legend"]).sudo();
    let (state, failed) = match run(place, list).await.filter(Output::ok) {
        Some(output) => (State::Green, failed(&output.stdout_text())),
        None => (State::Absent, Vec::new()),
    };
    std::iter::once(Checked::required("units", state)).chain(failed).collect()
}

fn failed(list: &str) -> Vec<Checked> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.map(|name| Checked::required(format!("unit {name}"), State::Red("it failed".into()))).collect()
}

/// What people's own checks say.
async fn own(place: &Place<'_>) -> Vec<Checked> {
    let Some(listed) = run(place, scripts::list(place.scripts)).await else { return Vec::new() };
    let scripts = match scripts::read(place.scripts, &listed) {
        Ok(scripts) => scripts,
        Err(why) => {
            let why = format!("`{}` cannot be read: {why}", place.scripts.display());
            return vec![Checked::required("own checks", State::Red(why))];
        }
    };
    let mut found = Vec::new();
    for Script { path, weight, refused } in scripts {
        let name = path.strip_prefix(place.scripts).unwrap_or(&path).display().to_string();
        let state = match refused {
            Some(why) => State::Red(why),
            None => script(place, &path).await,
        };
        found.push(Checked { name, weight, state });
    }
    found
}

async fn script(place: &Place<'_>, path: &Path) -> State {
    match place.executor.run(Action::Read(Cmd::new(path).sudo().timeout(LIMIT))).await {
        Ok(output) if output.ok() => State::Green,
        Ok(output) => State::Red(last_line(&output)),
        Err(error) => State::Red(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_failed_units_are_read_out_of_what_the_tools_say() {
        assert_eq!(ports("port 2222\nport 22\naddressfamily any\n"), [2222, 22]);
        assert_eq!(ports("nothing"), [0; 0]);
        let list = "web.service loaded failed failed The web\nmnt.mount loaded failed failed /mnt\n";
        let names: Vec<String> = failed(list).into_iter().map(|checked| checked.name).collect();
        assert_eq!(names, ["unit web.service", "unit mnt.mount"]);
        assert_eq!(failed("\n"), []);
    }
}
