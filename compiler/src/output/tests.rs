//! Faults at every system call of the write path, other writers beside it, and what sweeping may touch.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::calls::fault::{self, ALL_NAMED, Fault};
use super::{Folder, Kept, Target, Whole, temporary};
use crate::error::Result;

const OLD: &[u8] = b"what was there before";

/// A folder in memory, where bringing a file to disk costs nothing.
fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// More than one call's worth.
fn new_content() -> Vec<u8> {
    (0..40_000u32).flat_map(u32::to_le_bytes).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let target = Target::new(path, &Kept::default())?;
    let mut whole = Whole::create(&target)?;
    for piece in bytes.chunks(50_000) {
        whole.write_all(piece).map_err(|e| crate::error::Error::io("write", path, e))?;
    }
    whole.finish()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file of a folder and its content.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    names(folder).into_iter().map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap())).collect()
}

/// What a dead writer left.
fn leave(folder: &Path) -> String {
    let name = temporary::fresh().unwrap();
    std::fs::write(folder.join(&name), "left over").unwrap();
    name
}

/// One write with a fault, and one after it.
fn check_fault(at: u64, kind: Fault, exists: bool) -> bool {
    let folder = memory_folder();
    let path = folder.path().join("target");
    if exists {
        std::fs::write(&path, OLD).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    }
    let left = leave(folder.path());
    let (result, calls) = fault::with(Some((at, kind)), || write(&path, &new_content()));
    let context = format!("{kind:?} at call {at} of {calls}, target there: {exists}");
    let mut after = files(folder.path());
    match after.remove("target") {
        Some(content) if content == new_content() => {}
        Some(content) => assert!(exists && content == OLD && result.is_err(), "{context}"),
        None => assert!(!exists && result.is_err(), "{context}"),
    }
    after.remove(&left);
    let most = if kind == Fault::Die { 1 } else { 0 };
    assert!(after.len() <= most, "{context}: {:?} stay", after.keys());
    write(&path, b"the next").unwrap();
    assert_eq!(names(folder.path()), ["target"], "{context}: not swept");
    assert_eq!(std::fs::read(&path).unwrap(), b"the next");
    if exists {
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640, "{context}");
    }
    at < calls
}

#[test]
fn a_fault_at_any_call_leaves_the_old_file_or_the_new_one() {
    for (exists, named) in [(false, false), (true, false), (false, true), (true, true)] {
        ALL_NAMED.set(named);
        for kind in [
            Fault::Die,
            Fault::Fail(io::ErrorKind::StorageFull),
            Fault::Fail(io::ErrorKind::PermissionDenied),
            Fault::Fail(io::ErrorKind::AlreadyExists),
            Fault::Fail(io::ErrorKind::WouldBlock),
        ] {
            let calls = (0..200).take_while(|at| check_fault(*at, kind, exists)).count();
            assert!((15..100).contains(&calls), "{calls} calls");
        }
        ALL_NAMED.set(false);
    }
}

const NAMES: [&str; 3] = ["00-a.hyir", "01-b.hyir", "02-c.txt"];

fn write_folder(path: &Path, contents: &[String; 3]) -> Result<()> {
    Folder::new(path, NAMES.map(String::from).to_vec(), &Kept::default())?.write(contents)
}

/// One write of a folder with a fault, and one after it.
fn check_folder_fault(at: u64, kind: Fault, exists: bool) -> bool {
    let scratch = memory_folder();
    let path = scratch.path().join("dumps");
    let [old, new] = ["old", "new"].map(|word| NAMES.map(|name| format!("{word} {name}").repeat(9000)));
    if exists {
        write_folder(&path, &old).unwrap();
    }
    let (result, calls) = fault::with(Some((at, kind)), || write_folder(&path, &new));
    let context = format!("{kind:?} at call {at} of {calls}, folder there: {exists}");
    let found = if path.exists() { files(&path) } else { BTreeMap::new() };
    let whole = |name: &str| NAMES.iter().position(|own| *own == name);
    let mut at_work = 0;
    for (name, content) in &found {
        let Some(i) = whole(name) else {
            assert!(temporary::is_temporary(name.as_bytes()), "{context}: {name}");
            at_work += 1;
            continue;
        };
        let content = String::from_utf8(content.clone()).unwrap();
        assert!(content == new[i] || exists && content == old[i], "{context}: {name} is not whole");
    }
    // A fault is not death: nothing of the work stays.
    assert!(at_work == 0 || kind == Fault::Die, "{context}: {at_work} stay");
    let all = NAMES.map(|name| found.get(name).map(|content| content.starts_with(b"new")));
    assert!(result.is_err() || all == [Some(true); 3], "{context}");
    write_folder(&path, &new).unwrap();
    assert_eq!(names(&path), NAMES, "{context}: not swept");
    at < calls
}

/// Whatever fails, each file of a folder is the old one or the new one, whole.
#[test]
fn a_fault_at_any_call_leaves_a_folder_of_whole_files() {
    for (exists, named) in [(false, false), (true, false), (true, true)] {
        ALL_NAMED.set(named);
        for kind in [
            Fault::Die,
            Fault::Fail(io::ErrorKind::StorageFull),
            Fault::Fail(io::ErrorKind::PermissionDenied),
        ] {
            let calls = (0..400).take_while(|at| check_folder_fault(*at, kind, exists)).count();
            assert!((30..300).contains(&calls), "{calls} calls");
        }
        ALL_NAMED.set(false);
    }
}

/// Many threads, which are one process: each target gets the content that was written to it.
#[test]
fn writers_side_by_side_do_not_touch_each_other() {
    let folder = memory_folder();
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let folder = folder.path();
            scope.spawn(move || {
                ALL_NAMED.set(writer % 2 == 1);
                for round in 0..20u8 {
                    let own = folder.join(format!("own-{writer}"));
                    write(&own, &[writer, round]).unwrap();
                    assert_eq!(std::fs::read(&own).unwrap(), [writer, round]);
                    write(&folder.join("shared"), &[writer; 3000]).unwrap();
                    let shared = std::fs::read(folder.join("shared")).unwrap();
                    assert!(shared.len() == 3000 && shared.iter().all(|byte| *byte == shared[0]));
                }
            });
        }
    });
    let own = (0..8).map(|writer| format!("own-{writer}"));
    assert_eq!(names(folder.path()), own.chain(["shared".to_string()]).collect::<Vec<_>>());
}

#[test]
fn a_living_writer_is_not_swept() {
    let folder = memory_folder();
    ALL_NAMED.set(true);
    let target = Target::new(&folder.path().join("slow"), &Kept::default()).unwrap();
    let mut slow = Whole::create(&target).unwrap();
    slow.write_all(b"slow").unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    write(&folder.path().join("quick"), b"quick").unwrap();
    assert_eq!(names(folder.path()).len(), 2);
    slow.finish().unwrap();
    ALL_NAMED.set(false);
    assert_eq!(names(folder.path()), ["quick", "slow"]);
    assert_eq!(std::fs::read(folder.path().join("slow")).unwrap(), b"slow");
}

#[test]
fn only_what_is_left_over_is_swept() {
    let folder = memory_folder();
    let at = |name: &str| folder.path().join(name);
    let mut stay = vec!["target".to_string()];
    for name in [".hyc-1234", ".hyc-model", ".hyc-abcdefghijkl0000", ".hyc-abcdefghijklmnop", "hyc", ".hyc-"]
    {
        std::fs::write(at(name), "a user's").unwrap();
        stay.push(name.to_string());
    }
    let [inner, link, pipe] = [(); 3].map(|()| temporary::fresh().unwrap());
    std::fs::create_dir(at(&inner)).unwrap();
    std::os::unix::fs::symlink("target", at(&link)).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at(&pipe), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    stay.extend([inner, link, pipe]);
    for _ in 0..3 {
        leave(folder.path());
    }
    write(&at("target"), b"new").unwrap();
    stay.sort();
    assert_eq!(names(folder.path()), stay);
}

#[test]
fn names_are_recognised() {
    let name = temporary::fresh().unwrap();
    assert!(temporary::is_temporary(name.as_bytes()) && name != temporary::fresh().unwrap());
    for other in [&name[1..], &name[..name.len() - 1], &format!("{name}0"), ".hyc-é234567890120000"] {
        assert!(!temporary::is_temporary(other.as_bytes()), "{other}");
    }
}

#[test]
fn a_replaced_file_keeps_its_permissions_and_owner() {
    let folder = memory_folder();
    let path = folder.path().join("target");
    for named in [false, true] {
        ALL_NAMED.set(named);
        for mode in [0o600, 0o640, 0o664, 0o755] {
            std::fs::write(&path, OLD).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            write(&path, b"new").unwrap();
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, mode);
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
            write(&path, b"new").unwrap();
            let file = path.metadata().unwrap();
            assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (1234, 4321, 0o755));
        }
        ALL_NAMED.set(false);
    }
}

/// What appears under the name while the file is written is looked at once more.
#[test]
fn what_came_meanwhile_is_not_lost() {
    let folder = memory_folder();
    let (path, input) = (folder.path().join("target"), folder.path().join("input"));
    std::fs::write(&input, "an input").unwrap();
    let mut kept = Kept::default();
    kept.add("the description", &input);
    let target = Target::new(&path, &kept).unwrap();
    let mut whole = Whole::create(&target).unwrap();
    whole.write_all(b"new").unwrap();
    std::fs::hard_link(&input, &path).unwrap();
    let error = whole.finish().unwrap_err();
    assert!(error.message.contains("is the description"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"an input");

    std::fs::remove_file(&path).unwrap();
    let whole = Whole::create(&target).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(whole.finish().unwrap_err().message.contains("is no file"));
    std::fs::remove_dir(&path).unwrap();

    // A file that is nothing to the work is replaced, with the permissions that it has by then.
    let whole = Whole::create(&target).unwrap();
    std::fs::write(&path, OLD).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
    whole.finish().unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o604);
    assert_eq!(names(folder.path()), ["input", "target"]);
}

/// The folder may be renamed while the file is written: the file goes where the folder is.
#[test]
fn the_folder_is_held() {
    let folder = memory_folder();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    std::fs::create_dir(&before).unwrap();
    let target = Target::new(&before.join("target"), &Kept::default()).unwrap();
    let whole = Whole::create(&target).unwrap();
    std::fs::rename(&before, &after).unwrap();
    whole.finish().unwrap();
    assert_eq!(names(&after), ["target"]);
}
