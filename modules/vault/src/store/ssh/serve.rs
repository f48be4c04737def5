//! The other end: a directory of this machine, served on a stream to whoever logged in.

use std::io::{self, Read, Write};
use std::time::Duration;

use pc_switcher_contract::{ErrorKind, ModuleError};

use super::wire::{self, Answer, Ask, Assembly, LARGEST, MAGIC, PROTOCOL};
use crate::error::Result;
use crate::store::{Kind, Store};

/// A machine that asks says something at least each tenth second; one that is silent for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(60);

/// What is served.
pub struct Served<'a> {
    /// The directory.
    pub store: &'a dyn Store,
    /// What this machine is called.
    pub hostname: &'a str,
    /// Whether nothing but locks may be removed.
    pub append_only: bool,
}

/// Answers what is asked for until the stream ends.
///
/// # Errors
/// If the stream breaks, or what comes is nothing that is asked for here.
pub fn serve(served: &Served<'_>, mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    to.write_all(MAGIC)?;
    to.flush()?;
    let mut assembly = Assembly::default();
    while let Some(frame) = wire::read(&mut from)? {
        let Some((id, ask, object)) = assembly.take_in::<Ask>(frame)? else { continue };
        let (answer, object) = match served.answer(ask, &object) {
            Ok(answered) => answered,
            Err(error) => {
                let message = format!("{}: {}", served.hostname, error.message);
                (Answer::Failed(ModuleError { message, ..error }.into()), Vec::new())
            }
        };
        wire::write_whole(&mut to, id, &answer, &object, || false)?;
    }
    Ok(())
}

impl Served<'_> {
    fn answer(&self, ask: Ask, object: &[u8]) -> Result<(Answer, Vec<u8>)> {
        let nothing = |answer| Ok((answer, Vec::new()));
        match ask {
            Ask::Hello { .. } => nothing(Answer::Hello {
                protocol: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").into(),
                hostname: self.hostname.into(),
                append_only: self.append_only,
            }),
            Ask::Ping => nothing(Answer::Done),
            Ask::Put { kind, name } => {
                check_name(kind, &name)?;
                nothing(Answer::Written { is_new: self.store.put(kind, &name, object)? })
            }
            Ask::Get { kind, name, afresh } => {
                check_name(kind, &name)?;
                let found = match afresh {
                    true => self.store.get_afresh(kind, &name)?,
                    false => self.store.get(kind, &name)?,
                };
                Ok(match found {
                    Some(object) => (Answer::Found, object),
                    None => (Answer::Missing, Vec::new()),
                })
            }
            Ask::GetRange { kind, name, offset, length } => {
                check_name(kind, &name)?;
                let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST);
                let length =
                    length.ok_or_else(|| ModuleError::failed("more is asked for than is sent at once"))?;
                Ok((Answer::Found, self.store.get_range(kind, &name, offset, length)?))
            }
            Ask::List { kind } => {
                let all = self.store.list(kind)?;
                let text =
                    serde_json::to_vec(&all).map_err(|error| ModuleError::failed(error.to_string()))?;
                Ok((Answer::Found, text))
            }
            Ask::Delete { kind, name } => {
                check_name(kind, &name)?;
                if self.append_only && kind != Kind::Lock {
                    return Err(ModuleError::new(
                        ErrorKind::Invalid,
                        format!("the {} `{name}` stays: this vault is served append-only", kind.noun()),
                    )
                    .hint("remove on that machine itself, or log in with a key that may"));
                }
                self.store.delete(kind, &name)?;
                nothing(Answer::Done)
            }
            Ask::IsVacant => nothing(Answer::Vacant { is_vacant: self.store.is_vacant()? }),
            Ask::MakeReady => self.store.make_ready().and_then(|()| nothing(Answer::Done)),
        }
    }
}

/// Proves that a name leads to no other place than that of its kind: whoever asks may have no other right than this.
fn check_name(kind: Kind, name: &str) -> Result<()> {
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_plain = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !text.is_empty() && text.len() <= 100 && !text.starts_with('.') && text.bytes().all(plain)
    };
    let fits = match kind {
        Kind::Config | Kind::Marker => name.is_empty(),
        Kind::Key | Kind::Lock | Kind::Index | Kind::Snapshot | Kind::Pack => is_hex(name),
        Kind::Meta => name.split_once('/').is_some_and(|(host, name)| is_plain(host) && is_plain(name)),
    };
    match fits {
        true => Ok(()),
        false => {
            Err(ModuleError::failed(format!("`{}` is no name of a {}", name.escape_debug(), kind.noun())))
        }
    }
}
