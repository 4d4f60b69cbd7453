//! Made trees of `/proc` and `/sys`: nothing here depends on the machine that runs it.

use super::*;

const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

/// A machine of these files, with 8,000,000 kB available and 8 cores.
fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let folder = tempfile::tempdir().unwrap();
    let common = [
        ("proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n"),
        ("proc/thread-self/status", "Name:\thyc\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n"),
        ("sys/devices/system/cpu/online", "0-7\n"),
    ];
    for (path, text) in common.iter().chain(files) {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let machine = Machine::at(folder.path());
    (folder, machine)
}

#[track_caller]
fn memory(files: &[(&str, &str)], bytes: u64, place: &str) {
    let free = machine(files).1.free_memory().unwrap();
    assert_eq!((free.bytes, free.place), (bytes, place));
}

#[track_caller]
fn threads(files: &[(&str, &str)], cores: usize) {
    assert_eq!(machine(files).1.cores(), cores);
}

const HOST: u64 = 8_000_000 * 1024;
const GROUP: &str = " in its control group";

#[test]
fn without_groups_the_machine_counts() {
    memory(&[], HOST, "");
    threads(&[], 8);
    assert_eq!(Machine::at("/nothing/here").free_memory(), None);
    assert!(Machine::at("/nothing/here").cores() >= 1);
    let here = Machine::here();
    assert!(here.free_memory().is_some_and(|free| free.bytes > 0) && here.cores() >= 1);
}

#[test]
fn version_1_counts_at_every_level() {
    let at = |leaf: &'static str, top: &'static str| {
        [
            ("proc/self/mountinfo", V1),
            ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/a/b c\n0::/\n"),
            ("sys/fs/cgroup/memory/a/b c/memory.limit_in_bytes", leaf),
            ("sys/fs/cgroup/memory/a/b c/memory.usage_in_bytes", "50000000\n"),
            (
                "sys/fs/cgroup/memory/a/b c/memory.stat",
                "inactive_file 1\ntotal_inactive_file 20000000\ntotal_active_file 5000000\n",
            ),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", top),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "60000000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]
    };
    memory(&at("150000000\n", "9223372036854771712\n"), 125_000_000, GROUP);
    memory(&at("150000000\n", "100000000\n"), 40_000_000, GROUP);
    memory(&at("9223372036854771712\n", "9223372036854771712\n"), HOST, "");
    // Already over the limit.
    memory(&at("10000000\n", "9223372036854771712\n"), 0, GROUP);
}

#[test]
fn version_2_counts_at_every_level() {
    let at = |max: &'static str, high: &'static str, top: &'static str| {
        [
            ("proc/self/mountinfo", V2),
            ("proc/self/cgroup", "0::/user.slice/hyc.scope\n"),
            ("sys/fs/cgroup/user.slice/hyc.scope/memory.max", max),
            ("sys/fs/cgroup/user.slice/hyc.scope/memory.high", high),
            ("sys/fs/cgroup/user.slice/hyc.scope/memory.current", "30000000\n"),
            ("sys/fs/cgroup/user.slice/hyc.scope/memory.stat", "anon 20000000\ninactive_file 10000000\n"),
            ("sys/fs/cgroup/user.slice/memory.max", top),
            ("sys/fs/cgroup/user.slice/memory.current", "40000000\n"),
        ]
    };
    memory(&at("max\n", "max\n", "max\n"), HOST, "");
    memory(&at("100000000\n", "max\n", "max\n"), 80_000_000, GROUP);
    memory(&at("100000000\n", "70000000\n", "max\n"), 50_000_000, GROUP);
    memory(&at("100000000\n", "max\n", "60000000\n"), 20_000_000, GROUP);
}

#[test]
fn a_container_sees_its_own_group_at_the_mount() {
    // Version 1 without a namespace: the mount shows the group that the path names.
    let mounts = "35 31 0:32 /docker/1f /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory\n";
    let files = |path: &'static str, mounts: &'static str| {
        [
            ("proc/self/mountinfo", mounts),
            ("proc/self/cgroup", path),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "90000000\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "80000000\n"),
            ("sys/fs/cgroup/memory.max", "70000000\n"),
        ]
    };
    memory(&files("4:memory:/docker/1f\n", mounts), 90_000_000, GROUP);
    memory(&files("4:memory:/docker/1f/x\n", mounts), 80_000_000, GROUP);
    memory(&files("4:memory:/docker/1ff\n", mounts), 90_000_000, GROUP);
    // A path outside the namespace.
    memory(&files("0::/../other\n", V2), 70_000_000, GROUP);
}

#[test]
fn the_address_space_counts() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units     
Max address space         500000000            unlimited            bytes     
";
    let files = [("proc/self/limits", limits), ("proc/self/status", "VmSize:\t  100000 kB\n")];
    memory(&files, 500_000_000 - 102_400_000, " in its address space (`ulimit -v`)");
    let limits = "Max address space         unlimited            unlimited            bytes\n";
    memory(&[("proc/self/limits", limits), files[1]], HOST, "");
}

#[test]
fn cores_follow_the_mask_and_the_quota() {
    threads(&[("proc/thread-self/status", "Cpus_allowed_list:\t0,2-3\n")], 3);
    threads(&[("proc/thread-self/status", "Cpus_allowed_list:\t0-255\n")], 8);
    threads(&[("sys/devices/system/cpu/online", "0,6\n")], 2);
    let v1 = |quota: &'static str, top: &'static str| {
        [
            ("proc/self/mountinfo", V1),
            ("proc/self/cgroup", "2:cpu,cpuacct:/a/b\n1:memory:/z\n"),
            ("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", quota),
            ("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", top),
            ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "50000\n"),
        ]
    };
    threads(&v1("-1\n", "-1\n"), 8);
    threads(&v1("150000\n", "-1\n"), 2);
    threads(&v1("5000\n", "-1\n"), 1);
    threads(&v1("-1\n", "150000\n"), 3);
    let v2 = |max: &'static str| {
        let group = ("proc/self/cgroup", "0::/a\n");
        [("proc/self/mountinfo", V2), group, ("sys/fs/cgroup/a/cpu.max", max)]
    };
    threads(&v2("max 100000\n"), 8);
    threads(&v2("210000 100000\n"), 3);
    threads(&v2("9900000 100000\n"), 8);
}
