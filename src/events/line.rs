//! One line of the log file: every event in one flat schema (seed rows D401–D410).

use jiff::Timestamp;
use pc_switcher_contract::{Event, EventKind, Hostname, LogLevel, ModuleName, SessionId, SessionState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A log entry. Events of other kinds become entries of `core` or of their module, with their data as context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// The number in the session's stream; gaps are dropped progress or entries below the file's level.
    pub seq: u64,
    /// UTC, ISO 8601.
    pub timestamp: Timestamp,
    /// Which kind of event, for example `log` or `state`.
    pub kind: String,
    /// How grave; `INFO` for what is no log line, `FULL` for progress and stages.
    pub level: LogLevel,
    /// A registered module, or `core`.
    pub module: ModuleName,
    /// The machine it happened on, by the name it gives itself.
    pub hostname: Hostname,
    /// The session.
    pub session_id: SessionId,
    /// The text, never empty.
    pub message: String,
    /// Paths, error codes, the data of the event.
    #[serde(default)]
    pub context: Map<String, Value>,
}

impl LogLine {
    /// Makes the entry of an event; `own` is the machine on which the stream is written.
    pub fn of(event: &Event, own: &Hostname) -> Self {
        let core = || ModuleName::literal("core");
        let info = LogLevel::Info;
        let (kind, level, module, hostname, message, context) = match &event.kind {
            EventKind::Log { level, module, hostname, message, context } => {
                ("log", *level, module.clone(), hostname.clone(), message.clone(), context.clone())
            }
            EventKind::Progress { module, progress } => {
                let share =
                    progress.fraction.map_or_else(String::new, |f| format!("{:.0} % ", f.get() * 100.0));
                let message = format!("{share}{}", progress.item);
                let message = if message.trim().is_empty() { "at work".to_owned() } else { message };
                ("progress", LogLevel::Full, module.clone(), own.clone(), message, object(json!(progress)))
            }
            EventKind::Plan { module, plan } => {
                let message = if plan.summary.is_empty() { "nothing" } else { &plan.summary }.to_owned();
                ("plan", info, module.clone(), own.clone(), message, object(json!({"plan": plan})))
            }
            EventKind::Module { module, result, summary } => {
                let message =
                    if summary.is_empty() { result.to_string() } else { format!("{result}: {summary}") };
                ("module", info, module.clone(), own.clone(), message, object(json!({"result": result})))
            }
            EventKind::Started { source, target, modules, dry_run } => (
                "started",
                info,
                core(),
                source.clone(),
                format!("{} from {source} to `{target}`", if *dry_run { "dry run" } else { "sync" }),
                object(json!({"source": source, "target": target, "modules": modules, "dry_run": dry_run})),
            ),
            EventKind::Connected { target } => (
                "connected",
                info,
                core(),
                own.clone(),
                format!("connected to {target}"),
                object(json!({"target": target})),
            ),
            EventKind::State { state } => {
                ("state", info, core(), own.clone(), state.to_string(), object(json!({"state": state})))
            }
            EventKind::Stage { stage } => {
                let message = if stage.is_empty() { "(no name)" } else { stage }.to_owned();
                ("stage", info, core(), own.clone(), message, object(json!({"stage": stage})))
            }
            EventKind::Snapshots { set } => {
                let names: Vec<String> = set.members.iter().map(|member| member.name.to_string()).collect();
                let message = format!("snapshots of {}: {}", set.hostname, names.join(", "));
                ("snapshots", info, core(), set.hostname.clone(), message, object(json!({"set": set})))
            }
            EventKind::Ended { state, exit_code } => (
                "ended",
                info,
                core(),
                own.clone(),
                format!("{state}, exit code {exit_code}"),
                object(json!({"state": state, "exit_code": exit_code})),
            ),
        };
        Self {
            seq: event.seq,
            timestamp: event.at,
            kind: kind.to_owned(),
            level,
            module,
            hostname,
            session_id: event.session.clone(),
            message,
            context,
        }
    }

    /// Returns the final state if this entry ends the session.
    pub fn ending(&self) -> Option<SessionState> {
        (self.kind == "ended")
            .then(|| self.context.get("state"))?
            .and_then(|s| serde_json::from_value(s.clone()).ok())
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
