//! Tells for a whole directory which names in it a rule can match at all: matching every path of a tree against every
//! pattern takes longer than reading the tree.
//!
//! It may say "perhaps" too often, never too seldom: what it rules out, no pattern matches.

/// What a name must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// Exactly these bytes.
    Exact(Vec<u8>),
    /// This beginning and this end: what stands before the first and behind the last `*` or `?`.
    Open(Vec<u8>, Vec<u8>),
}

impl Shape {
    fn of(component: &str) -> Shape {
        let open = |c| c == '*' || c == '?';
        match (component.find(open), component.rfind(open)) {
            (Some(first), Some(last)) => Shape::Open(component[..first].into(), component[last + 1..].into()),
            _ => Shape::Exact(component.into()),
        }
    }

    fn fits(&self, name: &[u8]) -> bool {
        match self {
            Shape::Exact(whole) => name == whole,
            Shape::Open(begin, end) => name.starts_with(begin) && name.ends_with(end),
        }
    }
}

/// Where one pattern can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outline {
    /// The first names of a path, from the folder's root.
    first: Vec<Shape>,
    /// The last names of a path; `None` if a path has no others than the first.
    last: Option<Vec<Shape>>,
}

impl Outline {
    /// Reads a floating pattern; `None` for one that only brings back.
    pub(super) fn of(pattern: &str) -> Option<Outline> {
        if pattern.starts_with('!') {
            return None;
        }
        let anywhere = Outline { first: Vec::new(), last: Some(Vec::new()) };
        // A class, an alternative or an escaped character may hold a slash.
        if pattern.contains(['[', '{', '\\']) {
            return Some(anywhere);
        }
        let body = pattern.strip_suffix('/').unwrap_or(pattern);
        let is_anchored = body.starts_with('/');
        let names: Vec<&str> = body.strip_prefix('/').unwrap_or(body).split('/').collect();
        if names.iter().any(|name| name.is_empty() || (*name != "**" && name.contains("**"))) {
            return Some(anywhere);
        }
        let shapes = |names: &[&str]| names.iter().map(|name| Shape::of(name)).collect::<Vec<_>>();
        let gap = names.iter().position(|name| *name == "**");
        let last_gap = names.iter().rposition(|name| *name == "**");
        Some(match (gap, last_gap) {
            (Some(gap), Some(last_gap)) => {
                Outline { first: shapes(&names[..gap]), last: Some(shapes(&names[last_gap + 1..])) }
            }
            _ if is_anchored => Outline { first: shapes(&names), last: None },
            _ => Outline { first: Vec::new(), last: Some(shapes(&names)) },
        })
    }

    /// Adds what the names in a directory must look like to be matched; nothing if none can be.
    fn inside<'a>(&'a self, dir: &[&[u8]], names: &mut Vec<&'a Shape>) {
        let depth = dir.len() + 1;
        if self.first.len() > depth || (self.last.is_none() && self.first.len() != depth) {
            return;
        }
        if !self.first.iter().zip(dir).all(|(shape, name)| shape.fits(name)) {
            return;
        }
        let last = self.last.as_deref().unwrap_or_default();
        let Some((name, above)) = last.split_last() else {
            names.push(self.first.get(dir.len()).unwrap_or(&EVERY));
            return;
        };
        let tail = dir.len().checked_sub(above.len()).map(|at| &dir[at..]);
        if tail.is_some_and(|tail| above.iter().zip(tail).all(|(shape, name)| shape.fits(name))) {
            names.push(name);
        }
    }
}

static EVERY: Shape = Shape::Open(Vec::new(), Vec::new());

/// The names of one directory that a rule may match.
pub struct Near<'a>(Vec<&'a Shape>);

impl<'a> Near<'a> {
    /// Looks at the directory with this path from the folder's root.
    pub(super) fn of(outlines: impl Iterator<Item = &'a Outline>, dir: &[u8]) -> Near<'a> {
        let dir: Vec<&[u8]> = dir.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let mut names = Vec::new();
        outlines.for_each(|outline| outline.inside(&dir, &mut names));
        Near(names)
    }

    /// Whether a rule may match this name here; if not, it is kept.
    pub fn may_match(&self, name: &[u8]) -> bool {
        self.0.iter().any(|shape| shape.fits(name))
    }
}
