//! NVIDIA's own tools, where they are installed: PTX to machine code, machine code to text.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::error::{Error, ErrorKind, Result};
use crate::words::place;

const HELP: &str = "install NVIDIA's CUDA toolkit or the Python packages nvidia-cuda-nvcc, nvidia-cuda-nvdisasm and \
                    nvidia-cuda-cuobjdump, and name ptxas with `--ptxas PATH`";

/// What Ctrl-C sends.
const SIGINT: i32 = 2;

/// The tools' place.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    /// ptxas; `None`: the one on PATH. The other tools are looked for beside it first.
    pub ptxas: Option<PathBuf>,
}

impl Assembler {
    /// ptxas by a name that means the same from every folder, as it is not started in this one.
    fn tool(&self) -> Result<PathBuf> {
        let tool = self.ptxas.clone().unwrap_or_else(|| "ptxas".into());
        if tool.as_os_str().as_bytes().contains(&b'/') {
            return std::path::absolute(&tool).map_err(|e| Error::io("start", &tool, e));
        }
        Ok(tool)
    }

    /// Machine code of `ptx` for `arch` (`sm_90a`). Errors: there is no ptxas; it refuses the text.
    pub fn cubin(&self, ptx: &[u8], arch: &str) -> Result<Vec<u8>> {
        let folder = folder()?;
        let (from, to) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
        std::fs::write(&from, ptx).map_err(|e| Error::io("write", &from, e))?;
        let tool = self.tool()?;
        let arch = format!("-arch={arch}");
        // Relative names: the machine code may say where it came from, and shall not.
        let mut command = Command::new(&tool);
        command.args([arch.as_str(), "-O3", "module.ptx", "-o", "module.cubin"]).current_dir(folder.path());
        let Some(output) = start(&mut command, &tool)? else {
            let message = format!("there is no `{}` here", place(&tool));
            return Err(Error::new(ErrorKind::Unsupported, message).help(HELP));
        };
        succeeded(&tool, &output)?;
        std::fs::read(&to).map_err(|e| Error::io("read", &to, e))
    }

    /// What ptxas says of its version; `None` where there is none.
    pub fn version(&self) -> Option<String> {
        let tool = self.tool().ok()?;
        let output = start(Command::new(&tool).arg("--version"), &tool).ok()??;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.contains("release")).or(text.lines().last());
        output.status.success().then(|| line.unwrap_or("of no known version").trim().to_string())
    }

    /// Disassembly of machine code. Errors: there is neither nvdisasm nor cuobjdump; what they say.
    pub fn sass(&self, cubin: &[u8]) -> Result<Vec<u8>> {
        let folder = folder()?;
        let from = folder.path().join("module.cubin");
        std::fs::write(&from, cubin).map_err(|e| Error::io("write", &from, e))?;
        let ptxas = self.tool()?;
        let beside = ptxas.parent().filter(|folder| folder.is_absolute());
        for (name, arguments) in [("nvdisasm", "-c"), ("cuobjdump", "-sass")] {
            let beside = beside.map(|folder| folder.join(name)).filter(|path| path.exists());
            let tool = beside.unwrap_or_else(|| name.into());
            let mut command = Command::new(&tool);
            command.args([arguments, "module.cubin"]).current_dir(folder.path());
            if let Some(output) = start(&mut command, &tool)? {
                succeeded(&tool, &output)?;
                return Ok(output.stdout);
            }
        }
        Err(Error::new(ErrorKind::Unsupported, "there is neither `nvdisasm` nor `cuobjdump` here").help(HELP))
    }
}

fn folder() -> Result<tempfile::TempDir> {
    tempfile::tempdir()
        .map_err(|e| Error::new(ErrorKind::Resource, format!("cannot make a temporary folder: {e}")))
}

/// What the tool gave; `None` where there is no such tool.
fn start(command: &mut Command, tool: &Path) -> Result<Option<Output>> {
    match command.output() {
        Ok(output) => Ok(Some(output)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("start", tool, e)),
    }
}

fn succeeded(tool: &Path, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    // A Ctrl-C reaches the tool as well: it is ended, or ends by itself.
    let signal = output.status.signal();
    if signal == Some(SIGINT) || crate::signal::pressed() {
        let message = format!("cancelled while {} ran; nothing was written", place(tool));
        return Err(Error::new(ErrorKind::Cancelled, message));
    }
    if let Some(signal) = signal {
        let message = format!("{} was ended by signal {signal}", place(tool));
        return Err(Error::new(ErrorKind::Resource, message).help("has it run out of memory? try it again"));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().take(8).collect();
    let message = format!("{} failed ({}): {}", place(tool), output.status, lines.join("; "));
    Err(Error::new(ErrorKind::Internal, message).help("the PTX is that of `--emit ptx`"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A script in place of a tool.
    fn write(path: &Path, script: &str) {
        std::fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Its path from the folder that the tests run in, as `./FOLDER/ptxas`.
    fn ptxas(script: &str) -> (tempfile::TempDir, Assembler) {
        let folder = tempfile::tempdir_in(".").unwrap();
        write(&folder.path().join("ptxas"), script);
        let ptxas = Path::new(".").join(folder.path().file_name().unwrap()).join("ptxas");
        (folder, Assembler { ptxas: Some(ptxas) })
    }

    /// Another test's fork may hold a script open for a moment.
    fn settled<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..200 {
            match start() {
                Err(error) if error.message.contains("busy") => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                done => return done,
            }
        }
        panic!("the script stays busy");
    }

    #[test]
    fn a_relative_path_is_seen_from_where_hyc_was_started() {
        let (folder, assembler) = ptxas("cp module.ptx module.cubin");
        assert_eq!(settled(|| assembler.cubin(b"ptx", "sm_90a")).unwrap(), b"ptx");
        write(&folder.path().join("nvdisasm"), "echo \"$1\"");
        assert_eq!(settled(|| assembler.sass(b"code")).unwrap(), b"-c\n");
    }

    #[test]
    fn whose_fault_it_is_that_a_tool_fails() {
        for (script, kind, words) in [
            ("kill -INT $$; sleep 9", ErrorKind::Cancelled, "cancelled while"),
            ("kill -KILL $$; sleep 9", ErrorKind::Resource, "was ended by signal 9"),
            ("echo no such thing >&2; exit 1", ErrorKind::Internal, "no such thing"),
        ] {
            let (_folder, assembler) = ptxas(script);
            let error = settled(|| assembler.cubin(b"ptx", "sm_90a")).unwrap_err();
            assert!(error.kind == kind && error.message.contains(words), "{script}: {error:?}");
        }
    }
}
