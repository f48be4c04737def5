//! Recovery codes: words for paper, which nobody chose and which are typed as they are read.

/// Without letters that look like digits or like each other.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Digits of five bits each.
const LENGTH: usize = 32;
const GROUP: usize = 4;

/// Returns a new code, of 160 bits, as it is printed: `XXXX-XXXX-…`.
///
/// # Errors
/// If the system has no random numbers.
pub fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes)?;
    // Each of the 32 comes from eight of the 256 bytes.
    let digits: Vec<u8> = bytes.iter().map(|byte| ALPHABET[usize::from(byte % 32)]).collect();
    Ok(grouped(&digits))
}

/// Returns the code that somebody typed, as it was printed: with or without dashes and blanks, in small letters, with an O for a zero and
/// an I or L for a one. `None` if it is no code.
pub fn as_printed(typed: &[u8]) -> Option<String> {
    let digit = |byte: u8| match byte.to_ascii_uppercase() {
        b'O' => Some(b'0'),
        b'I' | b'L' => Some(b'1'),
        byte => ALPHABET.contains(&byte).then_some(byte),
    };
    let wanted = typed.iter().filter(|byte| !matches!(byte, b'-' | b' ' | b'\t' | b'\r'));
    let digits: Vec<u8> = wanted.map(|byte| digit(*byte)).collect::<Option<_>>()?;
    (digits.len() == LENGTH).then(|| grouped(&digits))
}

fn grouped(digits: &[u8]) -> String {
    let groups: Vec<String> =
        digits.chunks(GROUP).map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_however_it_is_typed() {
        let code = random().unwrap();
        assert!(code.len() == 39 && code.split('-').count() == 8, "{code}");
        assert_ne!(code, random().unwrap());
        let bare = code.replace('-', "");
        for typed in [code.clone(), bare.to_lowercase(), format!(" {}\r", code.replace('-', " "))] {
            assert_eq!(as_printed(typed.as_bytes()).unwrap(), code);
        }
        let zeros = as_printed("oOoO-iIlL-0000-1111-0000-1111-0000-1111".as_bytes()).unwrap();
        assert_eq!(zeros, "0000-1111-0000-1111-0000-1111-0000-1111");
        for other in ["correct horse", "", &bare[1..], &format!("{bare}0"), &bare.replace(&bare[..1], "U")] {
            assert_eq!(as_printed(other.as_bytes()), None, "{other}");
        }
    }
}
