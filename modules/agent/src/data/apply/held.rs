//! Programs that hold a displaced version open: what they write from now on reaches nobody.
//!
//! Nobody can open a version anew once it has lost its name, so a look after the last step sees them all, also those that
//! came after the plan was made.

use pc_switcher_contract::BytePath;

use super::part::Part;
use super::remove;
use super::retire::Expected;
use crate::linux::writers::writers;
use crate::proto::Writer;

/// Returns a line per program and displaced version that it holds open for writing.
pub(super) fn held(parts: &[(usize, &Part)], expected: &Expected) -> Vec<String> {
    // What cannot be listed is an error of the step that comes next.
    let has_displaced = |part: &Part| remove::list(&part.undo).is_ok_and(|names| !names.is_empty());
    let parts: Vec<&Part> = parts.iter().map(|(_, part)| *part).filter(|part| has_displaced(part)).collect();
    if parts.is_empty() {
        return Vec::new();
    }
    let places: Vec<BytePath> = parts.iter().map(|part| part.undo_path()).collect();
    let name = |writer: &Writer| {
        let part = parts.iter().zip(&places).find(|(_, place)| writer.path.is_within(place))?.0;
        let number = std::str::from_utf8(writer.path.name()).ok()?.parse().ok()?;
        expected.get(&number).map(|(_, path, _)| line(&part.absolute(path), writer))
    };
    writers(&places).iter().filter_map(name).collect()
}

fn line(path: &BytePath, writer: &Writer) -> String {
    let Writer { program, pid, .. } = writer;
    format!(
        "`{path}` was replaced while `{program}` (process {pid}) has it open for writing: \
         what it writes from now on goes to the old version"
    )
}
