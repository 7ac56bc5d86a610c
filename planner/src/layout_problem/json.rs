//! A pull parser of JSON over bytes: the caller asks for the list, object or number that should come next.
//!
//! It exists for speed on lists of whole numbers, for numbers beyond 64 bits, and for errors that know their place.
//! Whoever opens a list or object adds its index or key to the path of an error from inside.

use super::read::ReadError;

/// Values that nobody asked for may be nested so deep.
const DEEPEST: usize = 128;

/// Whole numbers of more digits are clamped to ten to this power, which is beyond all bounds on numbers here.
const MOST_DIGITS: usize = 30;

/// An error shows so many characters of a number.
const LONGEST_SHOWN: usize = 40;

pub(super) type Result<T> = std::result::Result<T, ReadError>;

/// What is left of a text.
pub(super) struct Json<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Json<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Reads a list; `each` reads the entry of an index. `what` says in words what the list holds. Returns its length.
    #[inline]
    pub(super) fn list(&mut self, what: &str, mut each: impl FnMut(&mut Self, usize) -> Result<()>) -> Result<usize> {
        self.open(b'[', what)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(0);
        }
        let mut length = 0;
        loop {
            each(self, length).map_err(|error| error.within_index(length))?;
            length += 1;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(length);
                }
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
    }

    /// Reads an object; `each` reads the value of a key, or returns false to have it skipped.
    pub(super) fn object(&mut self, what: &str, mut each: impl FnMut(&mut Self, &str) -> Result<bool>) -> Result<()> {
        self.open(b'{', what)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            match self.peek() {
                Some(b'"') => {}
                _ => return Err(self.unexpected("a key in quotes")),
            }
            let key = self.string("")?;
            match self.peek() {
                Some(b':') => self.at += 1,
                _ => return Err(self.unexpected("`:`").within_key(&key)),
            }
            let known = each(self, &key).map_err(|error| error.within_key(&key))?;
            if !known {
                self.skip(0).map_err(|error| error.within_key(&key))?;
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.unexpected("`,` or `}`")),
            }
        }
    }

    /// Reads a whole number, however it is written. Numbers of very many digits come out clamped.
    #[inline]
    pub(super) fn whole(&mut self, what: &str) -> Result<i128> {
        self.peek();
        let negative = self.text.get(self.at) == Some(&b'-');
        let start = self.at + usize::from(negative);
        let mut magnitude = 0_u64;
        let mut at = start;
        while let Some(digit) = self.text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            // wraps only where there are more than 19 digits, and then the long way decides
            magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit));
            at += 1;
        }
        let digits = at - start;
        let plain = digits == 1 || (2..=19).contains(&digits) && self.text[start] != b'0';
        if !plain || matches!(self.text.get(at), Some(b'.' | b'e' | b'E')) {
            return self.any_number(what);
        }
        self.at = at;
        Ok(if negative { -i128::from(magnitude) } else { i128::from(magnitude) })
    }

    /// Reads a text.
    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        self.open(b'"', what)?;
        let start = self.at - 1;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => {
                    self.at = self.text.len();
                    return Err(self.unexpected("the end of a text in quotes"));
                }
            }
        }
        self.at += 1;
        serde_json::from_slice(&self.text[start..self.at]).map_err(|error| {
            let message = format!("the text in quotes at byte {start} is malformed: {error}");
            ReadError::new("partita::layout_problem::syntax", message, "escape control characters and quotes, and write UTF-8")
        })
    }

    /// Makes sure that nothing is left.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the text")),
        }
    }

    /// Passes a value of any kind.
    fn skip(&mut self, depth: usize) -> Result<()> {
        if depth == DEEPEST {
            let message = format!("values are nested more than {DEEPEST} deep at byte {}", self.at);
            return Err(ReadError::new("partita::layout_problem::syntax", message, "leave out what does not belong to the problem"));
        }
        match self.peek() {
            Some(b'[') => self.list("", |json, _| json.skip(depth + 1)).map(|_| ()),
            Some(b'{') => self.object("", |json, _| json.skip(depth + 1).map(|()| true)),
            Some(b'"') => self.string("").map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.literal().map(|_| ()),
            _ => {
                let word = ["true", "false", "null"].iter().find(|word| self.text[self.at..].starts_with(word.as_bytes()));
                self.at += word.ok_or_else(|| self.unexpected("a value"))?.len();
                Ok(())
            }
        }
    }

    /// Goes to the next byte that is not white space and returns it; `None` at the end.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Whether this word follows, in capitals or not.
    fn follows(&self, word: &str) -> bool {
        self.text[self.at..].get(..word.len()).is_some_and(|next| next.eq_ignore_ascii_case(word.as_bytes()))
    }

    #[inline]
    fn open(&mut self, bracket: u8, what: &str) -> Result<()> {
        if self.peek() == Some(bracket) {
            self.at += 1;
            return Ok(());
        }
        Err(self.wrong_type(what))
    }

    /// Says that what follows is no `what`.
    #[cold]
    fn wrong_type(&mut self, what: &str) -> ReadError {
        let found = match self.peek() {
            Some(b'[') => "a list",
            Some(b'{') => "an object",
            Some(b'"') => "a text in quotes",
            Some(b'-' | b'0'..=b'9') => "a number",
            _ if self.follows("true") || self.follows("false") => "true or false",
            _ if self.follows("null") => "null",
            _ => return self.unexpected(what),
        };
        ReadError::new("partita::layout_problem::wrong_type", format!("must be {what}, and {found} stands here, at byte {}", self.at), "")
    }

    /// Says that what follows is not what should, or that nothing follows.
    #[cold]
    fn unexpected(&mut self, what: &str) -> ReadError {
        let next = self.peek();
        let at = self.at;
        match next {
            None => {
                let message = format!("the text ends at byte {at}, and {what} should follow");
                ReadError::new("partita::layout_problem::truncated", message, "the file is not complete: write or download it again")
            }
            _ if self.follows("nan") || self.follows("inf") => {
                let message = format!("{what} should stand at byte {at}, and NaN and infinity are no numbers of JSON");
                ReadError::new("partita::layout_problem::syntax", message, "write 1000000000000000000 for a cost that is forbidden")
            }
            Some(byte) => {
                let found = if byte.is_ascii_graphic() { format!("`{}`", char::from(byte)) } else { format!("the byte {byte:#04x}") };
                ReadError::new(
                    "partita::layout_problem::syntax",
                    format!("{what} should stand at byte {at}, and {found} does"),
                    "the file must be JSON",
                )
            }
        }
    }

    /// Reads a number that is negative, long, or written with a point or an exponent.
    #[cold]
    fn any_number(&mut self, what: &str) -> Result<i128> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return Err(self.wrong_type(what));
        }
        let number = self.literal()?;
        // the value is 0.digits times ten to the power `point`, without zeros at either end of the digits
        let mut digits: Vec<u8> = [number.whole, number.fraction].concat();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        let point = number.whole.len() as i128 - zeros as i128 + i128::from(number.exponent);
        if digits.is_empty() {
            return Ok(0);
        }
        if point < digits.len() as i128 {
            let shown = String::from_utf8_lossy(&number.text[..number.text.len().min(LONGEST_SHOWN)]);
            let message = format!("{shown} is not a whole number");
            return Err(ReadError::new("partita::layout_problem::not_whole", message, "scale all costs alike, or round them"));
        }
        let magnitude = match usize::try_from(point) {
            Ok(point) if point <= MOST_DIGITS => {
                digits.resize(point, b'0');
                digits.iter().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'))
            }
            _ => 10_i128.pow(MOST_DIGITS as u32),
        };
        Ok(if number.negative { -magnitude } else { magnitude })
    }

    /// Passes a number and takes it apart.
    fn literal(&mut self) -> Result<Literal<'t>> {
        let start = self.at;
        let negative = self.text.get(self.at) == Some(&b'-');
        self.at += usize::from(negative);
        let whole = self.digits()?;
        if whole.len() > 1 && whole[0] == b'0' {
            let message = format!("the number at byte {start} begins with a zero");
            return Err(ReadError::new("partita::layout_problem::syntax", message, "JSON has no such numbers: leave the zero out"));
        }
        let mut fraction: &[u8] = &[];
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            fraction = self.digits()?;
        }
        let mut exponent = 0;
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            let sign = self.text.get(self.at).copied().filter(|byte| matches!(byte, b'-' | b'+'));
            self.at += usize::from(sign.is_some());
            // an exponent beyond 64 bits is as good as one of a million billion
            let largest = 1_000_000_000_000_000;
            exponent = self.digits()?.iter().fold(0, |value: i64, digit| (value * 10 + i64::from(digit - b'0')).min(largest));
            if sign == Some(b'-') {
                exponent = -exponent;
            }
        }
        Ok(Literal { text: &self.text[start..self.at], negative, whole, fraction, exponent })
    }

    fn digits(&mut self) -> Result<&'t [u8]> {
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return Err(self.unexpected("a digit"));
        }
        self.at += length;
        Ok(&rest[..length])
    }
}

/// The parts of a number as it is written.
struct Literal<'t> {
    text: &'t [u8],
    negative: bool,
    whole: &'t [u8],
    fraction: &'t [u8],
    exponent: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> std::result::Result<i128, String> {
        let mut json = Json::new(text.as_bytes());
        json.whole("a number").and_then(|number| json.end().map(|()| number)).map_err(|error| error.message)
    }

    #[test]
    fn whole_numbers_in_every_spelling() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            (" 7 ", 7),
            ("-12", -12),
            ("1000000000000000000", 10_i128.pow(18)),
            ("9223372036854775808", 1 << 63),
            ("18446744073709551616", 1 << 64),
            ("1e18", 10_i128.pow(18)),
            ("-1.5E+3", -1500),
            ("1000000000000000000.0", 10_i128.pow(18)),
            ("0.0", 0),
            ("0e99999999999999999999", 0),
            ("0.00012e5", 12),
            ("1200e-2", 12),
            ("1e400", 10_i128.pow(30)),
            ("-1e99999999999999999999", -10_i128.pow(30)),
            ("123456789012345678901234567890", 123_456_789_012_345_678_901_234_567_890),
        ] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn other_numbers_are_errors() {
        for (text, message) in [
            ("0.5", "0.5 is not a whole number"),
            ("-1e-1", "-1e-1 is not a whole number"),
            ("1e-99999999999999999999", "1e-99999999999999999999 is not a whole number"),
            ("007", "the number at byte 0 begins with a zero"),
            ("1.", "the text ends at byte 2, and a digit should follow"),
            ("1.e3", "a digit should stand at byte 2, and `e` does"),
            ("-", "the text ends at byte 1, and a digit should follow"),
            ("-x", "a digit should stand at byte 1, and `x` does"),
            ("1e", "the text ends at byte 2, and a digit should follow"),
            ("", "the text ends at byte 0, and a number should follow"),
            ("NaN", "a number should stand at byte 0, and NaN and infinity are no numbers of JSON"),
            ("-Infinity", "a digit should stand at byte 1, and NaN and infinity are no numbers of JSON"),
            ("'1'", "a number should stand at byte 0, and `'` does"),
            ("\"1\"", "must be a number, and a text in quotes stands here, at byte 0"),
            ("null", "must be a number, and null stands here, at byte 0"),
            ("1 2", "the end of the text should stand at byte 2, and `2` does"),
            ("\u{feff}1", "a number should stand at byte 0, and the byte 0xef does"),
        ] {
            assert_eq!(number(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_skipped_and_still_checked() {
        let skip = |text: &str| {
            let mut json = Json::new(text.as_bytes());
            json.skip(0).and_then(|()| json.end()).map_err(|error| (error.path, error.code))
        };
        assert_eq!(skip(r#" {"a\"]": [1, -2.5e3, {}, [], true, false, null, "é\n"], "b": {"c": [[[]]]}} "#), Ok(()));
        let at = |path: &str, word: &str| Err((path.to_owned(), format!("partita::layout_problem::{word}")));
        for (text, path, word) in [
            ("[1, {\"a\": [tru]}]", "[1].a[0]", "syntax"),
            ("[1,]", "[1]", "syntax"),
            ("{\"a\": 1,}", "", "syntax"),
            ("{\"a\" 1}", "a", "syntax"),
            ("[1}", "", "syntax"),
            ("[[1], [2", "[1]", "truncated"),
            ("{\"a", "", "truncated"),
            ("\"\\", "", "truncated"),
            ("\"\\q\"", "", "syntax"),
        ] {
            assert_eq!(skip(text).map_err(|(path, code)| (path, code.to_owned())), at(path, word), "{text}");
        }
        assert!(skip(&"[".repeat(DEEPEST + 1)).unwrap_err().1.ends_with("syntax"));
        assert!(skip(&("[".repeat(DEEPEST - 1) + &"]".repeat(DEEPEST - 1))).is_ok());
    }
}
