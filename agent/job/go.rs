//! Texts as Go's standard library reads them: the docker CLI is a Go program, and its users know its forms.

use super::values::Read;

/// `strconv.ParseBool`.
pub(crate) fn boolean(value: &str) -> Read<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// `strconv.ParseInt` with base 0, as pflag reads numbers: `10`, `-1`, `0x1f`, `0b11`, `0o17`, `017`, `1_000`.
pub(crate) fn integer(value: &str) -> Option<i128> {
    let (negative, digits) = match value.as_bytes().first()? {
        b'-' => (true, &value[1..]),
        b'+' => (false, &value[1..]),
        _ => (false, value),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits, prefixed) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..], true),
        Some("0b") => (2, &lower[2..], true),
        Some("0o") => (8, &lower[2..], true),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..], true),
        _ => (10, &*lower, false),
    };
    // An underscore stands between digits, or after the prefix.
    let misplaced = digits.ends_with('_') || digits.contains("__") || (digits.starts_with('_') && !prefixed);
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if misplaced || !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from_str_radix(&digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// Digits alone, as `strconv.ParseUint` with base 10 reads them.
pub(crate) fn digits<T: std::str::FromStr>(value: &str) -> Option<T> {
    let good = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    good.then(|| value.parse().ok()).flatten()
}

/// `time.ParseDuration`, in nanoseconds: `1m30s`, `1.5h`, `-500ms`, `0`.
pub(crate) fn duration(value: &str) -> Option<i64> {
    let (sign, mut rest) = match value.as_bytes().first()? {
        b'-' => (-1, &value[1..]),
        b'+' => (1, &value[1..]),
        _ => (1, value),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        nanoseconds = nanoseconds.checked_add(times(number, factor)?)?;
        rest = tail;
    }
    i64::try_from(sign * nanoseconds).ok()
}

/// A decimal such as `1.5`, `.5` or `1.` times a whole number, without what is left of a fraction.
fn times(number: &str, factor: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let part = |digits: &str| if digits.is_empty() { Some(0) } else { self::digits::<i128>(digits) };
    // As Go does it: the fraction is a float, and what it has beyond 18 places is nothing.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10_f64.powi(i32::try_from(fraction.len()).ok()?);
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "as Go does it")]
    let rest = (part(fraction)? as f64 * (factor as f64 / scale)) as i128;
    part(whole)?.checked_mul(factor)?.checked_add(rest)
}

/// `strconv.ParseFloat`: decimals, exponents, and hexadecimals with a `p`; underscores between digits.
pub(crate) fn float(value: &str) -> Option<f64> {
    let (sign, bare) = match value.strip_prefix('-') {
        Some(bare) => (-1.0, bare),
        None => (1.0, value.strip_prefix('+').unwrap_or(value)),
    };
    if bare.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x")) {
        let (_, exponent) = bare.split_once(['p', 'P'])?;
        exponent.parse::<i32>().ok()?;
        let (numerator, denominator) = rational(bare)?;
        #[expect(clippy::cast_precision_loss, reason = "a float is meant")]
        return Some(sign * (numerator as f64 / denominator as f64));
    }
    if bare.starts_with(['-', '+', '_']) || bare.ends_with('_') || bare.contains("__") {
        return None;
    }
    bare.replace('_', "").parse::<f64>().ok().map(|number| sign * number)
}

/// `big.Rat.SetString`, as numerator and denominator: `1.5`, `15e-1`, `0x1.8p1`, `1/2`; `None` too for what does
/// not fit.
pub(crate) fn rational(value: &str) -> Option<(i128, i128)> {
    if let Some((numerator, denominator)) = value.split_once('/') {
        let denominator = integer(denominator).filter(|_| !denominator.starts_with(['-', '+']))?;
        return (denominator != 0).then_some((integer(numerator)?, denominator));
    }
    let (sign, bare) = match value.strip_prefix('-') {
        Some(bare) => (-1, bare),
        None => (1, value.strip_prefix('+').unwrap_or(value)),
    };
    let lower = bare.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        _ => (10, &*lower),
    };
    let exponent_at = if radix == 16 { digits.find('p') } else { digits.find(['e', 'p']) };
    let (mantissa, exponent) = match exponent_at {
        Some(at) => (&digits[..at], digits[at + 1..].parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let base: i128 = if exponent_at.is_some_and(|at| digits[at..].starts_with('p')) { 2 } else { 10 };
    if mantissa.starts_with('_') && radix == 10 || mantissa.ends_with('_') || mantissa.contains("__") {
        return None;
    }
    let mantissa = mantissa.replace('_', "");
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((&mantissa, ""));
    let number = i128::from_str_radix(&format!("{whole}{fraction}"), radix).ok()?;
    let places = u32::try_from(fraction.len()).ok()?;
    let scale = i128::from(radix).checked_pow(places)?;
    let power = base.checked_pow(exponent.unsigned_abs())?;
    match exponent {
        0.. => Some((sign * number.checked_mul(power)?, scale)),
        _ => Some((sign * number, scale.checked_mul(power)?)),
    }
}

/// The first record of `encoding/csv`: commas, and fields in double quotes, which are doubled inside.
pub(crate) fn csv(record: &str) -> Read<Vec<String>> {
    let expected = || "comma-separated fields; one with a comma in it stands in double quotes".to_owned();
    let mut fields = Vec::new();
    let mut rest = record.lines().find(|line| !line.is_empty()).ok_or_else(expected)?;
    loop {
        let (field, tail) = match rest.strip_prefix('"') {
            None => {
                let (field, tail) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    return Err(expected());
                }
                (field.to_owned(), tail)
            }
            Some(quoted) => quoted_field(quoted).ok_or_else(expected)?,
        };
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(tail) => rest = tail,
            None if tail.is_empty() => return Ok(fields),
            None => return Err(expected()),
        }
    }
}

/// A field after its opening quote, and what follows its closing one.
fn quoted_field(quoted: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let (part, tail) = rest.split_once('"')?;
        field.push_str(part);
        match tail.strip_prefix('"') {
            Some(tail) => {
                field.push('"');
                rest = tail;
            }
            None => return Some((field, tail)),
        }
    }
}

/// `path.Clean`: no empty parts, no `.`, and `..` taken back.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in [
            ("10", Some(10)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("0x1F", Some(31)),
            ("0b11", Some(3)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("1_000", Some(1000)),
            ("0x_1f", Some(31)),
            ("0", Some(0)),
            ("00", Some(0)),
            ("08", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("0x", None),
            ("--1", None),
            ("+-1", None),
            ("1.5", None),
            (" 1", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(integer(text), number, "{text:?}");
        }
        assert_eq!(
            (digits::<u16>("80"), digits::<u16>("+80"), digits::<u16>("65536")),
            (Some(80), None, None)
        );
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [
            ("1m30s", Some(90.0)),
            ("1.5h", Some(5400.0)),
            ("500ms", Some(0.5)),
            (".5s", Some(0.5)),
            ("-1s", Some(-1.0)),
            ("0", Some(0.0)),
            ("9223372036.854775807s", Some(9_223_372_036.854_776)),
            ("1", None),
            ("1 s", None),
            ("s", None),
            ("1d", None),
            ("", None),
            (".s", None),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "near enough in these rows")]
            let read = duration(text).map(|nanoseconds| nanoseconds as f64 / 1e9);
            assert_eq!(read, seconds, "{text:?}");
        }
    }

    #[test]
    fn rationals_and_floats_are_read_as_go_reads_them() {
        for (text, parts) in [
            ("1.5", Some((15, 10))),
            ("15e-1", Some((15, 10))),
            ("-2", Some((-2, 1))),
            ("0x1.8p1", Some((48, 16))),
            ("1p2", Some((4, 1))),
            ("1_0", Some((10, 1))),
            ("010", Some((10, 1))),
            ("010/2", Some((8, 2))),
            ("1/-2", None),
            ("1/0", None),
            ("", None),
            (".", None),
            ("1e999", None),
            ("é", None),
        ] {
            assert_eq!(rational(text), parts, "{text:?}");
        }
        for (text, number) in [
            ("1_000", Some(1000.0)),
            ("0x1p3", Some(8.0)),
            ("0x_1p4", Some(16.0)),
            ("1e3", Some(1000.0)),
            ("0x10", None),
            ("_1", None),
            ("--1", None),
        ] {
            assert_eq!(float(text), number, "{text:?}");
        }
    }

    #[test]
    fn records_are_read_as_go_reads_them() {
        for (text, fields) in [
            ("a,b", Some(vec!["a", "b"])),
            ("a,", Some(vec!["a", ""])),
            ("\"a,b\",c", Some(vec!["a,b", "c"])),
            ("\"a\"\"b\"", Some(vec!["a\"b"])),
            ("a\"b", None),
            ("\"a", None),
            ("\"a\"b", None),
            ("", None),
        ] {
            let read = csv(text).ok();
            assert_eq!(read, fields.map(|all| all.into_iter().map(str::to_owned).collect()), "{text:?}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, cleaned) in [
            ("/a//b/", "/a/b"),
            ("/a/./b/..", "/a"),
            ("/..", "/"),
            ("a/..", "."),
            ("../a", "../a"),
            ("", "."),
        ] {
            assert_eq!(clean(path), cleaned, "{path:?}");
        }
    }
}
