//! `pc-switcher logs`: lists, prints and follows the log files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use console::Style;
use pc_switcher_contract::{LogLevel, SessionId, UtcStamp};
use serde::Serialize;

use super::error::HistoryError;
use crate::events::{LogLine, clean, is_log_name};
use crate::session::text;

/// How many logs are listed.
const LISTED: usize = 10;
/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogsChoice {
    /// None: list the newest.
    #[default]
    List,
    /// The newest one.
    Last,
    /// That of a session, by its id or the beginning of it.
    Session(String),
    /// The newest one, until its session ends.
    Follow,
}

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Which log.
    pub choice: LogsChoice,
    /// Raw lines instead of pretty ones.
    pub json: bool,
}

/// What `logs` looks at.
pub struct LogsEnv<'a> {
    /// Where the logs are.
    pub dir: &'a Path,
    /// Whether to colour.
    pub colours: bool,
    /// Sessions that did nothing, since another one was at work: none of them is the last one.
    pub busy: &'a [SessionId],
    /// Waits that long; `true` if the user has had enough.
    pub wait: &'a dyn Fn(Duration) -> bool,
}

/// A log file.
#[derive(Debug, Serialize)]
struct Log {
    session_id: SessionId,
    started: UtcStamp,
    bytes: u64,
    path: PathBuf,
}

/// Writes what was asked for.
///
/// # Errors
/// If there is no such log, or a log or the output fails.
pub fn run(options: &LogsOptions, env: &LogsEnv<'_>, out: &mut dyn Write) -> Result<(), HistoryError> {
    let logs = newest_first(env.dir)?;
    let newest = logs.iter().find(|log| !env.busy.contains(&log.session_id)).or(logs.first());
    let log = match (&options.choice, newest) {
        (LogsChoice::List, _) => return list(&logs, options.json, out),
        (LogsChoice::Session(id), _) => find(&logs, id)?,
        (LogsChoice::Last | LogsChoice::Follow, Some(newest)) => newest,
        (LogsChoice::Last | LogsChoice::Follow, None) if options.json => return Ok(()),
        (LogsChoice::Last | LogsChoice::Follow, None) => return Ok(writeln!(out, "{NO_LOGS}")?),
    };
    let printer = Printer { json: options.json, colours: env.colours };
    let failed = |source| HistoryError::Log { path: log.path.clone(), source };
    let file = File::open(&log.path).map_err(failed)?;
    if log.path.extension().is_some_and(|e| e == "zst") {
        let reader = BufReader::new(zstd::Decoder::new(file).map_err(failed)?);
        return print(reader, &log.path, &printer, out);
    }
    if options.choice == LogsChoice::Follow {
        return follow(&file, log, &printer, env, out);
    }
    print(BufReader::new(file), &log.path, &printer, out)
}

const NO_LOGS: &str = "No logs yet: `pc-switcher sync TARGET` writes the first one";

fn newest_first(dir: &Path) -> Result<Vec<Log>, HistoryError> {
    let failed = |source| HistoryError::Log { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut logs = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some((started, session_id)) = entry.file_name().to_str().and_then(is_log_name) else { continue };
        // A log that rotation removes right now is no log any more.
        let Ok(meta) = entry.metadata() else { continue };
        logs.push(Log { session_id, started, bytes: meta.len(), path: entry.path() });
    }
    logs.sort_by(|a, b| (b.started, &b.session_id, &b.path).cmp(&(a.started, &a.session_id, &a.path)));
    // While one is being compressed both forms exist for a moment; the plain one sorts last and is whole.
    logs.dedup_by(|b, a| a.session_id == b.session_id && a.started == b.started);
    Ok(logs)
}

fn list(logs: &[Log], json: bool, out: &mut dyn Write) -> Result<(), HistoryError> {
    let shown = &logs[..logs.len().min(LISTED)];
    if json {
        for log in shown {
            serde_json::to_writer(&mut *out, log).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        return Ok(());
    }
    if shown.is_empty() {
        return Ok(writeln!(out, "{NO_LOGS}")?);
    }
    for log in shown {
        let when = log.started.timestamp().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        writeln!(out, "{}  {when}  {:>9}", log.session_id, text::bytes(log.bytes))?;
    }
    if logs.len() > shown.len() {
        writeln!(out, "and {} older", logs.len() - shown.len())?;
    }
    Ok(writeln!(out, "`pc-switcher logs --last` or `--session ID` prints one")?)
}

fn find<'a>(logs: &'a [Log], id: &str) -> Result<&'a Log, HistoryError> {
    let wanted = id.to_ascii_lowercase();
    let mut fitting =
        logs.iter().filter(|log| !wanted.is_empty() && log.session_id.as_str().starts_with(&wanted));
    if let (Some(log), None) = (fitting.next(), fitting.next()) {
        return Ok(log);
    }
    let mut near: Vec<&Log> = logs.iter().collect();
    // A stable sort: among equally near ones the newest stay first.
    near.sort_by_key(|log| strsim::levenshtein(log.session_id.as_str(), &wanted));
    let close = near.first().is_some_and(|log| strsim::levenshtein(log.session_id.as_str(), &wanted) <= 3);
    let listed: Vec<String> = (if close { near } else { logs.iter().collect() })
        .iter()
        .take(3)
        .map(|log| format!("`{}`", log.session_id))
        .collect();
    let hint = match (listed.is_empty(), close) {
        (true, _) => "there are no logs yet".to_owned(),
        (false, true) => format!("the nearest are {}", listed.join(", ")),
        (false, false) => format!("the newest are {}", listed.join(", ")),
    };
    Err(HistoryError::UnknownSession { id: clean(id).into_owned(), hint })
}

fn print(
    mut reader: impl BufRead,
    path: &Path,
    printer: &Printer,
    out: &mut dyn Write,
) -> Result<(), HistoryError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = reader
            .read_until(b'\n', &mut line)
            .map_err(|source| HistoryError::Log { path: path.to_owned(), source })?;
        if count == 0 {
            return Ok(());
        }
        printer.line(&line, out)?;
    }
}

/// Prints a log as it grows. Its writer locks it: once the lock is free and all is read, nothing more will come.
fn follow(
    file: &File,
    log: &Log,
    printer: &Printer,
    env: &LogsEnv<'_>,
    out: &mut dyn Write,
) -> Result<(), HistoryError> {
    let failed = |source| HistoryError::Log { path: log.path.clone(), source };
    let mut pending = Vec::new();
    let mut ended = false;
    loop {
        // Asked before reading: what was written before the lock was freed is read after.
        let over = file.try_lock_shared().is_ok();
        (&mut &*file).read_to_end(&mut pending).map_err(failed)?;
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            ended |= printer.line(&line, out)?;
        }
        out.flush()?;
        if ended {
            return Ok(());
        }
        if over {
            if !pending.is_empty() {
                printer.line(&pending, out)?;
            }
            if !printer.json {
                writeln!(out, "the session is over and left no ending in this log")?;
            }
            return Ok(());
        }
        if (env.wait)(LOOK_EVERY) {
            return Ok(());
        }
    }
}

struct Printer {
    json: bool,
    colours: bool,
}

impl Printer {
    /// Writes one line; `true` if it says that the session ended.
    fn line(&self, bytes: &[u8], out: &mut dyn Write) -> Result<bool, HistoryError> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let parsed = serde_json::from_slice::<LogLine>(bytes);
        if self.json {
            out.write_all(bytes)?;
            out.write_all(b"\n")?;
        } else {
            match &parsed {
                Ok(line) => self.pretty(line, out)?,
                // The last line of a session that died may be cut off.
                Err(_) => writeln!(out, "{} (cut off)", clean(&String::from_utf8_lossy(bytes)))?,
            }
        }
        Ok(parsed.is_ok_and(|line| line.ending().is_some()))
    }

    fn pretty(&self, line: &LogLine, out: &mut dyn Write) -> std::io::Result<()> {
        let style = Style::new().force_styling(self.colours);
        let style = match line.level {
            LogLevel::Debug | LogLevel::Full => style.dim(),
            LogLevel::Info => style,
            LogLevel::Warning => style.yellow(),
            LogLevel::Error | LogLevel::Critical => style.red().bold(),
        };
        let kind = if line.kind == "log" { String::new() } else { format!("{}: ", line.kind) };
        // The file lies in the user's hands: it is foreign text again.
        let message = clean(&line.message).trim_end().replace('\n', "\n    ");
        writeln!(
            out,
            "{} {} {} {}: {kind}{message}",
            line.timestamp.strftime("%H:%M:%S"),
            style.apply_to(format!("{:<8}", line.level)),
            line.hostname,
            line.module,
        )?;
        if line.kind == "log" && !line.context.is_empty() {
            let fields: Vec<String> =
                line.context.iter().map(|(key, value)| format!("{key}={value}")).collect();
            writeln!(out, "    {}", clean(&fields.join(" ")))?;
        }
        Ok(())
    }
}
