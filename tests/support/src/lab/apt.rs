//! Reads the host's apt configuration, so that the base tree comes from where the host's packages come from.
//!
//! Parsing is pure; only [`host_sources`] touches the disk. Both spellings are understood: one-line `.list`
//! and deb822 `.sources`. Only the archives of the host's own release are taken, never third parties'.

use std::{fs, path::Path};

/// One archive as mmdebstrap takes it: a one-line `deb` entry.
pub(super) type DebLine = String;

/// Returns the host's archives of release `codename`, without third parties'.
pub(super) fn host_sources(etc_apt: &Path, codename: &str) -> Vec<DebLine> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let sources = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => text.lines().filter_map(parse_line).collect(),
            Some("sources") => parse_deb822(&text),
            _ => continue,
        };
        for line in sources.iter().flat_map(|source| source.lines_for(codename)) {
            if !found.contains(&line) {
                found.push(line);
            }
        }
    }
    found
}

/// One stanza or line: every URI with every suite.
#[derive(Debug, Default, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Source {
    fn lines_for(&self, codename: &str) -> Vec<DebLine> {
        if !self.components.iter().any(|component| component == "main") {
            return Vec::new();
        }
        let options = match &self.signed_by {
            Some(path) => format!("[signed-by={path}] "),
            None => String::new(),
        };
        let ours = |suite: &&String| {
            suite.strip_prefix(codename).is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
        };
        let components = self.components.join(" ");
        let suites: Vec<&String> = self.suites.iter().filter(ours).collect();
        self.uris
            .iter()
            .flat_map(|uri| suites.iter().map(move |suite| (uri, suite)))
            .map(|(uri, suite)| format!("deb {options}{uri} {suite} {components}"))
            .collect()
    }
}

fn parse_line(line: &str) -> Option<Source> {
    let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
    let mut signed_by = None;
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        rest = after;
    }
    let mut words = rest.split('#').next()?.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by,
    })
}

fn parse_deb822(text: &str) -> Vec<Source> {
    text.split("\n\n").filter_map(parse_stanza).collect()
}

fn parse_stanza(stanza: &str) -> Option<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in stanza.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut()?;
            value.push('\n');
            value.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let words = |name: &str| field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let is_off = field("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if is_off || !field("types")?.split_whitespace().any(|kind| kind == "deb") {
        return None;
    }
    Some(Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        // A key written out in the stanza cannot be named on one line; the trusted keyrings hold it as well.
        signed_by: field("signed-by")
            .filter(|value| value.starts_with('/') && !value.contains('\n'))
            .map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_entries_keep_their_key_and_lose_foreign_options() {
        let source =
            parse_line("deb [arch=amd64 signed-by=/k.gpg] http://archive.invalid/d rel main contrib # x")
                .unwrap();
        assert_eq!(
            source.lines_for("rel"),
            ["deb [signed-by=/k.gpg] http://archive.invalid/d rel main contrib"]
        );
        assert_eq!(parse_line("# deb http://archive.invalid/d rel main"), None);
        assert_eq!(parse_line("deb-src http://archive.invalid/d rel main"), None);
    }

    #[test]
    fn stanzas_expand_to_every_suite_of_the_release() {
        let text = "Types: deb deb-src\n# note\nURIs: http://archive.invalid/d\nSuites: rel rel-updates rel-backports\n\
                    Components: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://third.invalid\nSuites: rel\n\
                    Components: stable\n\nTypes: deb\nEnabled: no\nURIs: http://off.invalid\nSuites: rel\nComponents: main\n";
        let lines: Vec<_> = parse_deb822(text).iter().flat_map(|source| source.lines_for("rel")).collect();
        assert_eq!(
            lines,
            [
                "deb [signed-by=/k.gpg] http://archive.invalid/d rel main",
                "deb [signed-by=/k.gpg] http://archive.invalid/d rel-updates main"
            ]
        );
    }
}
