//! Takes secrets out of text before anyone sees it (facts/ssh.md S66).
//!
//! Detectors mark spans of one text; marked spans, merged, become `***`. Where a shape is ambiguous more is hidden
//! rather than less. A secret that has no shape (a bare word on a line of its own) cannot be found here: output
//! that may hold one is withheld by whoever runs the command.

mod pairs;
mod shapes;
mod url;

use std::borrow::Cow;
use std::ops::Range;

use pc_switcher_contract::EventKind;
use serde_json::{Map, Value};

use super::clean;

const MASK: &str = "***";

/// Returns the text with secrets replaced by `***`.
pub fn text(text: &str) -> Cow<'_, str> {
    let mut spans = Vec::new();
    url::mark(text, &mut spans);
    pairs::mark(text, &mut spans);
    shapes::mark(text, &mut spans);
    spans.retain(|span| !span.is_empty());
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    spans.sort_unstable_by_key(|span| span.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for Range { start, end } in spans {
        if start >= done {
            out.push_str(&text[done..start]);
            out.push_str(MASK);
        }
        done = done.max(end);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// Redacts a JSON value and all below it; the value of a key such as `password` goes whole.
pub fn value(value: &mut Value) {
    match value {
        Value::String(string) => harmless(string),
        Value::Array(items) => {
            let mut after_flag = false;
            for item in items {
                let is_flag = item.as_str().is_some_and(|s| s.starts_with('-') && pairs::is_secret_key(s));
                if after_flag {
                    *item = Value::from(MASK);
                } else {
                    self::value(item);
                }
                after_flag = is_flag;
            }
        }
        Value::Object(object) => map(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Redacts a JSON object and all below it.
pub fn map(object: &mut Map<String, Value>) {
    let fields = std::mem::take(object);
    for (mut key, mut field) in fields {
        if pairs::is_secret_key(&key) && !field.is_null() && !field.is_boolean() {
            field = Value::from(MASK);
        } else {
            value(&mut field);
        }
        harmless(&mut key);
        object.insert(key, field);
    }
}

/// Makes all foreign text of an event harmless: control sequences stripped, secrets replaced.
pub(super) fn event(kind: &mut EventKind) {
    match kind {
        EventKind::Log { message, context, .. } => {
            harmless(message);
            if message.is_empty() {
                message.push_str("(no text)");
            }
            map(context);
        }
        EventKind::Progress { progress, .. } => harmless(&mut progress.item),
        EventKind::Module { summary, .. } => harmless(summary),
        EventKind::Plan { plan, .. } => {
            harmless(&mut plan.summary);
            plan.warnings.iter_mut().for_each(harmless);
        }
        EventKind::Stage { stage } => harmless(stage),
        EventKind::Started { target, .. } => harmless(target),
        EventKind::Connected { .. }
        | EventKind::State { .. }
        | EventKind::Snapshots { .. }
        | EventKind::Ended { .. } => {}
    }
}

/// Strips first: a control sequence in the middle of a secret must not hide it from the detectors.
fn harmless(string: &mut String) {
    if let Cow::Owned(cleaned) = clean(string) {
        *string = cleaned;
    }
    if let Cow::Owned(redacted) = text(string) {
        *string = redacted;
    }
}

#[cfg(test)]
mod tests;
