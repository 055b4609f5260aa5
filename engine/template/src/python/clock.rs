//! `strftime_now`, in UTC.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The directives of C's `strftime` in its default locale; what is none of them stays as it is.
pub(super) fn strftime(form: &str, now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let days = seconds / 86_400;
    let (year, month, day, of_year) = civil_date(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let month_name = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
    let day_name = DAYS.get((days % 7) as usize).copied().unwrap_or_default();
    let short = |name: &'static str| name.get(..3).unwrap_or(name);
    let mut out = String::new();
    let mut rest = form;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        // GNU's dash leaves leading zeros out.
        let (is_bare, named) = after.strip_prefix('-').map_or((false, after), |named| (true, named));
        let mut number = |n: u64, width: usize| {
            let width = if is_bare { 0 } else { width };
            write!(out, "{n:0width$}").is_ok()
        };
        let known = match named.chars().next() {
            Some('Y') => number(year, 4),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('j') => number(of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number((hour + 11) % 12 + 1, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('f') => number(0, 6),
            Some('w') => number((days + 4) % 7, 1),
            Some('B') => write!(out, "{month_name}").is_ok(),
            Some('b' | 'h') => write!(out, "{}", short(month_name)).is_ok(),
            Some('A') => write!(out, "{day_name}").is_ok(),
            Some('a') => write!(out, "{}", short(day_name)).is_ok(),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }).is_ok(),
            Some('e') => write!(out, "{day:2}").is_ok(),
            Some('F') => write!(out, "{year:04}-{month:02}-{day:02}").is_ok(),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}").is_ok(),
            Some('D') => write!(out, "{month:02}/{day:02}/{:02}", year % 100).is_ok(),
            Some('z' | 'Z') => true,
            Some('%') => write!(out, "%").is_ok(),
            _ => false,
        };
        if !known {
            out.push('%');
        }
        let skipped = if known { named.chars().next().map_or(0, char::len_utf8) } else { 0 };
        rest = if known { named.get(skipped..).unwrap_or("") } else { after };
    }
    out + rest
}

/// Year, month, day and day of the year for a count of days since 1970-01-01 (proleptic Gregorian calendar).
fn civil_date(days: u64) -> (u64, u64, u64, u64) {
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let of_year = left + 1;
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1, of_year)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(strftime("%d %b %Y", at(0)), "01 Jan 1970");
        assert_eq!(strftime("%Y-%m-%d %H:%M:%S", at(951_868_799)), "2000-02-29 23:59:59");
        assert_eq!(strftime("%d %B %y", at(1_735_689_599)), "31 December 24");
        // date -u -d @951868799 '+%A|%a|%j|%I %p|%-d|%F|%T|%D|%w|%%|%Q'
        let all = strftime("%A|%a|%j|%I %p|%-m|%F|%T|%D|%w|%%|%Q|é%", at(951_868_799));
        assert_eq!(all, "Tuesday|Tue|060|11 PM|2|2000-02-29|23:59:59|02/29/00|2|%|%Q|é%");
    }
}
