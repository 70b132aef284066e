//! The end of a certificate's life: the one field of X.509 that rustls checks in others' certificates and does not tell of our own.

use onward::time::Timestamp;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// Returns until when a certificate (DER) is good, in seconds since 1970; `None` for what is no certificate.
pub(crate) fn not_after(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut tbs, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(tbs, VERSION) {
        tbs = rest;
    }
    let (_serial, rest) = element(tbs, INTEGER)?;
    let (_algorithm, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_not_before, rest) = time(validity)?;
    let (text, _) = time(rest)?;
    Some(text.parse::<Timestamp>().ok()?.as_micros() / 1_000_000)
}

/// Takes an element of this type off; returns its content and what follows.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    // Above 127 the length stands in that many bytes behind; no certificate needs more than three.
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (first == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// Takes a time off, as RFC 3339 spells it. Two digits of a year are 1950 to 2049 (RFC 5280, 4.1.2.5.1).
fn time(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (digits, rest) = element(bytes, UTC_TIME).or_else(|| element(bytes, GENERALIZED_TIME))?;
    let digits = std::str::from_utf8(digits).ok()?;
    let century = match (digits.len(), digits.as_bytes().first()?) {
        (13, b'5'..) => "19",
        (13, _) => "20",
        _ => "",
    };
    let whole = format!("{century}{digits}");
    let part = |from: usize, to: usize| whole.get(from..to);
    let text = format!("{}-{}-{}T{}:{}:{}Z", part(0, 4)?, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?);
    (whole.len() == 15 && whole.ends_with('Z')).then_some((text, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_and_nonsense_is_none() {
        for (year, seconds) in [(2031, 1_924_992_000), (2051, 2_556_144_000)] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let cert = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(cert.der()), Some(seconds), "{year}");
            for cut in 0..cert.der().len() {
                not_after(&cert.der()[..cut]);
            }
        }
        assert_eq!(not_after(b""), None);
        assert_eq!(not_after(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
