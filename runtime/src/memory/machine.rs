//! What this machine lets the process have: cores and memory, after the affinity mask and every control group around
//! it.
//!
//! All of it is read from `/proc` and `/sys` on Linux, of control groups both versions, mixed too. A group's limit
//! holds for all groups below it, so every level up to the mount's root counts.

use std::path::{Path, PathBuf};

/// A machine as seen by this process.
///
/// ```
/// use hyc_runtime::Machine;
///
/// let machine = Machine::here();
/// assert!(machine.cores() >= 1);
/// if let Some(free) = machine.free_memory() {
///     println!("{} MiB free{}", free.bytes >> 20, free.place);
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

/// Memory that is free, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// The tightest bound, as ` in its control group`; empty for the machine itself.
    pub place: &'static str,
}

/// A control group with its version.
struct Group {
    folder: PathBuf,
    version: u8,
}

impl Machine {
    /// The one that this process runs on.
    pub fn here() -> Machine {
        Machine::at("/")
    }

    /// One whose `/proc` and `/sys` are under `root`.
    pub fn at(root: impl Into<PathBuf>) -> Machine {
        Machine { root: root.into() }
    }

    /// Threads that can run at once: the affinity mask's cores, or the control groups' quota rounded up where that
    /// is less; 1 where nothing can be read.
    pub fn cores(&self) -> usize {
        let mask = self.affinity().or_else(|| std::thread::available_parallelism().ok().map(usize::from));
        let quota = self.quota().map_or(usize::MAX, |cores| cores.ceil().max(1.0) as usize);
        mask.unwrap_or(1).min(quota).max(1)
    }

    /// Cores that are online and in this thread's affinity mask.
    pub fn affinity(&self) -> Option<usize> {
        let status = self.read("proc/thread-self/status")?;
        let allowed = cores(field(&status, "Cpus_allowed_list:")?)?;
        // The mask may name cores that the machine could have and has not.
        let online = self.read("sys/devices/system/cpu/online").and_then(|list| cores(&list));
        let is_online = |core: &u64| match &online {
            Some(online) => online.iter().any(|range| range.contains(core)),
            None => true,
        };
        Some(allowed.into_iter().flatten().filter(is_online).count()).filter(|count| *count > 0)
    }

    /// Cores' worth of time that the control groups grant, where they limit it.
    pub fn quota(&self) -> Option<f64> {
        let of = |group: &Group| {
            let number = |name: &str| self.read_in(group, name)?.trim().parse::<f64>().ok();
            let (quota, period) = if group.version == 1 {
                (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
            } else {
                let max = self.read_in(group, "cpu.max")?;
                let mut parts = max.split_whitespace().map(|part| part.parse::<f64>().ok());
                (parts.next()??, parts.next()??)
            };
            (quota > 0.0 && period > 0.0).then(|| quota / period)
        };
        self.groups("cpu").iter().filter_map(of).min_by(f64::total_cmp)
    }

    /// Memory that the process can still take: the machine's, less where a control group or the limit of its
    /// address space (`ulimit -v`) leaves less. `None`: nobody says.
    pub fn free_memory(&self) -> Option<Free> {
        let machine = self.read("proc/meminfo").and_then(|text| kib(field(&text, "MemAvailable:")?));
        let group = self.groups("memory").iter().filter_map(|group| self.free_in(group)).min();
        let bounds = [
            (machine, ""),
            (group, " in its control group"),
            (self.free_addresses(), " in its address space (`ulimit -v`)"),
        ];
        let known = bounds.into_iter().filter_map(|(bytes, place)| Some(Free { bytes: bytes?, place }));
        known.min_by_key(|free| free.bytes)
    }

    /// Bytes below a group's limit. Cached files do not count as used: the system drops them first.
    fn free_in(&self, group: &Group) -> Option<u64> {
        let number = |name: &str| self.read_in(group, name)?.trim().parse::<u64>().ok();
        let stat = self.read_in(group, "memory.stat").unwrap_or_default();
        let (limits, usage, prefix) = match group.version {
            1 => ([number("memory.limit_in_bytes"), None], "memory.usage_in_bytes", "total_"),
            _ => ([number("memory.max"), number("memory.high")], "memory.current", ""),
        };
        let limit = limits.into_iter().flatten().min()?;
        let cached = ["inactive_file", "active_file"].map(|name| {
            let all = stat.lines().filter_map(|line| line.split_once(' '));
            let of = |name: &str| {
                all.clone().find(|(key, _)| *key == name).and_then(|(_, value)| value.trim().parse().ok())
            };
            of(&format!("{prefix}{name}")).or_else(|| of(name)).unwrap_or(0u64)
        });
        let used = number(usage).unwrap_or(0).saturating_sub(cached.into_iter().fold(0, u64::saturating_add));
        Some(limit.saturating_sub(used))
    }

    fn free_addresses(&self) -> Option<u64> {
        let limits = self.read("proc/self/limits")?;
        let limit = field(&limits, "Max address space")?.split_whitespace().next()?.parse::<u64>().ok()?;
        let status = self.read("proc/self/status")?;
        Some(limit.saturating_sub(kib(field(&status, "VmSize:")?)?))
    }

    /// The groups that this process is in, as far as `controller` is concerned, from the inside out.
    fn groups(&self, controller: &str) -> Vec<Group> {
        let (Some(memberships), Some(mounts)) =
            (self.read("proc/self/cgroup"), self.read("proc/self/mountinfo"))
        else {
            return Vec::new();
        };
        let mut groups = Vec::new();
        for line in memberships.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let version = if controllers.is_empty() { 2 } else { 1 };
            if version == 1 && !controllers.split(',').any(|name| name == controller) {
                continue;
            }
            let Some((mount, inner)) =
                mounts.lines().filter_map(|line| mounted(line, version, controller, path)).next()
            else {
                continue;
            };
            let top = self.root.join(mount.trim_start_matches('/'));
            let inside = inner.split('/').filter(|part| !part.is_empty());
            let all = inside.scan(top.clone(), |folder, part| {
                folder.push(part);
                Some(folder.clone())
            });
            let mut folders: Vec<PathBuf> = std::iter::once(top.clone()).chain(all).collect();
            folders.reverse();
            groups.extend(folders.into_iter().map(|folder| Group { folder, version }));
        }
        groups
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read(self.root.join(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn read_in(&self, group: &Group, name: &str) -> Option<String> {
        self.read(group.folder.join(name))
    }
}

/// Where a line of mountinfo mounts the hierarchy in question, and the way from there to group `path`. A container
/// sees a mount of its own group: what the path names above that is not there.
fn mounted(line: &str, version: u8, controller: &str, path: &str) -> Option<(String, String)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let right = match version {
        1 => name == "cgroup" && options.split(',').any(|option| option == controller),
        _ => name == "cgroup2",
    };
    let mut place = place.split(' ').skip(3);
    let (top, mount) = (unescaped(place.next()?), unescaped(place.next()?));
    let inner =
        path.strip_prefix(top.trim_end_matches('/')).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let inner = inner.filter(|rest| !rest.split('/').any(|part| part == "..")).unwrap_or("");
    right.then(|| (mount, inner.to_string()))
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescaped(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.into_iter().fold(text.to_string(), |text, (code, plain)| text.replace(code, plain))
}

/// What follows `name` at the beginning of a line.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Bytes of `123 kB`.
fn kib(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The ranges of `0-3,8`.
fn cores(list: &str) -> Option<Vec<std::ops::RangeInclusive<u64>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        // More than any kernel has: a count of them has an end.
        (first <= last && last < 1 << 20).then_some(first..=last)
    };
    list.trim().split(',').map(range).collect()
}

#[cfg(test)]
mod tests;
