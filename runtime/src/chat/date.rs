//! `strftime` for chat templates, in UTC and English.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
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

/// `format` with C's `%Y %y %m %d %e %B %b %A %a %H %I %M %S %p %j %F %T %Z %%` at `time`; `%-d` and its like are
/// without the leading zero. Errors: another letter.
pub fn format(format: &str, time: SystemTime) -> Result<String, String> {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |past| past.as_secs());
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, of_month) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(day % 7) as usize];
    let of_year = day - days_before(year) + 1;
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut code = letters.next();
        let bare = code == Some('-');
        if bare {
            code = letters.next();
        }
        let two = |n: u64| if bare { n.to_string() } else { format!("{n:02}") };
        out.push_str(&match code {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(of_month),
            Some('e') => format!("{of_month:2}"),
            Some('B') => month_name.to_string(),
            Some('b' | 'h') => month_name[..3].to_string(),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('H') => two(hour),
            Some('I') => two((hour + 11) % 12 + 1),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('j') if bare => of_year.to_string(),
            Some('j') => format!("{of_year:03}"),
            Some('F') => format!("{year}-{month:02}-{of_month:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_string(),
            Some('%') => "%".to_string(),
            Some(other) => return Err(format!("strftime_now knows no %{other}")),
            None => return Err("strftime_now: a format ends in %".to_string()),
        });
    }
    Ok(out)
}

/// Days from 1970 to the first of January of `year`.
fn days_before(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400 - 719_162
}

/// Year, month and day of the month of a day that is counted from 1970, in the Gregorian calendar.
fn civil(day: u64) -> (u64, u64, u64) {
    let mut year = 1970 + day / 366;
    while days_before(year + 1) <= day {
        year += 1;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut rest = day - days_before(year);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, text: &str) -> String {
        format(text, UNIX_EPOCH + Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(at(0, "%A %d %B %Y %H:%M:%S %j"), "Thursday 01 January 1970 00:00:00 001");
        assert_eq!(at(951_827_696, "%F %T %a %b %p %I"), "2000-02-29 12:34:56 Tue Feb PM 12");
        assert_eq!(at(1_735_689_599, "%d %b %Y %j"), "31 Dec 2024 366");
        assert_eq!(at(1_735_689_600, "%-d/%-m/%y %e"), "1/1/25  1");
        assert_eq!(at(4_107_542_399, "%F %%"), "2100-02-28 %");
        assert!(format("%Q", UNIX_EPOCH).is_err() && format("%", UNIX_EPOCH).is_err());
    }
}
