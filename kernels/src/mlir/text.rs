//! A row-wise kernel as MLIR text, written value by value: LLVM's dialect for functions and memory, `arith`,
//! `math`, `vector` and `scf` for what is computed, `nvvm` for the machine.
//!
//! A function has the parameters that [`Launch`](hyc_plan::Launch) tells and [`THREADS`] threads; block x
//! is one row. Columns are dealt out in chunks of `lanes` elements, chunk `k * team + i` to thread i of a team:
//! neighbours read neighbouring 16 bytes, and a thread's loads do not wait for each other. Rows begin at
//! multiples of 64 bytes, and their padding may be read and written, so a last chunk may reach into it.

use std::fmt::Display;

use hyc_plan::{Elem, KernelSpec, Layout};

use crate::operands::Operands;

/// Threads of a block.
pub const THREADS: u64 = 256;
/// Threads of a warp.
pub const WARP: u64 = 32;
/// Chunks whose loads go out before the first of them is used.
const AHEAD: usize = 4;

/// A value's name.
pub type Value = String;

/// Threads that share a row, with this thread's place among them (i64).
pub struct Team {
    pub threads: u64,
    pub index: Value,
}

/// One function being written.
pub struct Kernel<'s> {
    spec: &'s KernelSpec,
    named: Operands,
    pub entry: &'s str,
    globals: String,
    lines: String,
    values: usize,
    thread: Value,
    row: Value,
}

/// `lanes` elements of a type.
pub fn vector(lanes: u64, elem: &str) -> String {
    if lanes == 1 { elem.to_string() } else { format!("vector<{lanes}x{elem}>") }
}

/// The type that elements are loaded in. Weights of i32 are refused.
pub fn type_name(elem: Elem) -> &'static str {
    match elem {
        Elem::F32 | Elem::I32 => "f32",
        Elem::Bf16 => "bf16",
    }
}

/// A float that MLIR reads: it wants a point before the exponent.
fn literal(x: f32) -> String {
    let text = format!("{x:?}");
    match text.split_once('e') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0e{exponent}"),
        _ => text,
    }
}

impl<'s> Kernel<'s> {
    pub fn new(entry: &'s str, spec: &'s KernelSpec) -> Kernel<'s> {
        let (globals, lines) = (String::new(), String::new());
        let (named, thread, row) = (Operands::new(spec), Value::new(), Value::new());
        let mut k = Kernel { spec, named, entry, globals, lines, values: 0, thread, row };
        let thread = k.value("nvvm.read.ptx.sreg.tid.x : i32");
        k.thread = k.value(format!("arith.extui {thread} : i32 to i64"));
        let row = k.value("nvvm.read.ptx.sreg.ctaid.x : i32");
        k.row = k.value(format!("arith.extui {row} : i32 to i64"));
        k
    }

    /// The function, with what it needs beside it, or what operand it asked for that there is not.
    pub fn finish(self) -> Result<String, String> {
        if let Some(fault) = self.named.fault() {
            return Err(fault);
        }
        let operands: String =
            (0..self.spec.operands.len()).map(|i| format!("%operand{i}: !llvm.ptr<1>, ")).collect();
        Ok(format!(
            "{}llvm.func @{}(%context: !llvm.ptr<1>, {operands}%scratch: !llvm.ptr<1>) \
             attributes {{nvvm.kernel, nvvm.maxntid = array<i32: {THREADS}>}} {{\n{}llvm.return\n}}\n",
            self.globals, self.entry, self.lines
        ))
    }

    /// A line.
    pub fn line(&mut self, line: impl Display) {
        self.lines.push_str(&format!("{line}\n"));
    }

    /// A line that makes a value.
    pub fn value(&mut self, line: impl Display) -> Value {
        let name = format!("%{}", self.values);
        self.values += 1;
        self.line(format!("{name} = {line}"));
        name
    }

    // Constants and integers, all i64.

    pub fn int(&mut self, n: u64) -> Value {
        self.value(format!("arith.constant {n} : i64"))
    }

    pub fn add(&mut self, a: &str, b: &str) -> Value {
        self.value(format!("arith.addi {a}, {b} : i64"))
    }

    /// `a op n` of a non-negative a: `addi`, `muli`, `divui`, `remui`, `xori`.
    pub fn with(&mut self, op: &str, a: &str, n: u64) -> Value {
        let n = self.int(n);
        self.value(format!("arith.{op} {a}, {n} : i64"))
    }

    /// Whether `a < n`.
    pub fn below(&mut self, a: &str, n: u64) -> Value {
        let n = self.int(n);
        self.value(format!("arith.cmpi ult, {a}, {n} : i64"))
    }

    pub fn float(&mut self, x: f32) -> Value {
        self.value(format!("arith.constant {} : f32", literal(x)))
    }

    /// The constant in every lane.
    pub fn floats(&mut self, lanes: u64, x: f32) -> Value {
        match lanes {
            1 => self.float(x),
            _ => self.value(format!("arith.constant dense<{}> : {}", literal(x), vector(lanes, "f32"))),
        }
    }

    /// The value in every lane.
    pub fn splat(&mut self, lanes: u64, x: &str) -> Value {
        match lanes {
            1 => x.to_string(),
            _ => self.value(format!("vector.broadcast {x} : f32 to {}", vector(lanes, "f32"))),
        }
    }

    /// `a op b` lane by lane: `addf`, `mulf`, ...
    pub fn floats_with(&mut self, lanes: u64, op: &str, a: &str, b: &str) -> Value {
        self.value(format!("arith.{op} {a}, {b} : {}", vector(lanes, "f32")))
    }

    // Places.

    /// All threads of the block.
    pub fn block(&self) -> Team {
        Team { threads: THREADS, index: self.thread.clone() }
    }

    /// This thread's warp, and its number in the block.
    pub fn warp(&mut self) -> (Team, Value) {
        let thread = self.thread.clone();
        let index = self.with("remui", &thread, WARP);
        (Team { threads: WARP, index }, self.with("divui", &thread, WARP))
    }

    /// The block's row.
    pub fn row(&self) -> Value {
        self.row.clone()
    }

    // Memory. Addresses are in global memory.

    /// `base + index` elements.
    pub fn at(&mut self, base: &str, index: &str, elem: &str) -> Value {
        let ty = "!llvm.ptr<1>";
        self.value(format!("llvm.getelementptr {base}[{index}] : ({ty}, i64) -> {ty}, {elem}"))
    }

    /// The address of the operand of this name.
    pub fn operand(&self, name: &str) -> Value {
        format!("%operand{}", self.named.index(name))
    }

    /// Element type and layout of a weight.
    pub fn weight(&self, name: &str) -> (Elem, Layout) {
        self.named.weight(name)
    }

    /// Row `row` of a tensor, whose elements take 4 bytes.
    pub fn tensor_row(&mut self, name: &str, row: &str) -> Value {
        let index = self.with("muli", row, self.named.stride(name));
        self.at(&self.operand(name), &index, "f32")
    }

    /// Element `index` of a list of i32 of the step's context, as i64.
    pub fn context_list(&mut self, offset: usize, index: &str) -> Value {
        let offset = self.int(offset as u64);
        let place = self.at("%context", &offset, "i8");
        let list = self.value(format!("llvm.load {place} : !llvm.ptr<1> -> !llvm.ptr<1>"));
        let place = self.at(&list, index, "i32");
        let value = self.value(format!("llvm.load {place} : !llvm.ptr<1> -> i32"));
        self.value(format!("arith.extui {value} : i32 to i64"))
    }

    /// `lanes` elements from `base[index]` on, 16 bytes at a time where they are that many, as f32.
    pub fn load(&mut self, elem: Elem, lanes: u64, base: &str, index: &str) -> Value {
        let name = type_name(elem);
        let (place, ty) = (self.at(base, index, name), vector(lanes, name));
        let align = (lanes * elem.bytes()).min(16);
        let value =
            self.value(format!("llvm.load {place} {{alignment = {align} : i64}} : !llvm.ptr<1> -> {ty}"));
        match elem {
            Elem::Bf16 => self.value(format!("arith.extf {value} : {ty} to {}", vector(lanes, "f32"))),
            Elem::F32 | Elem::I32 => value,
        }
    }

    /// `base[index..] = value`, `lanes` of f32.
    pub fn store(&mut self, lanes: u64, base: &str, index: &str, value: &str) {
        let place = self.at(base, index, "f32");
        let (align, ty) = ((4 * lanes).min(16), vector(lanes, "f32"));
        self.line(format!("llvm.store {value}, {place} {{alignment = {align} : i64}} : {ty}, !llvm.ptr<1>"));
    }

    /// Room for `count` f32 in shared memory.
    pub fn shared(&mut self, count: u64) -> Value {
        let name = format!("{}.shared", self.entry);
        self.globals.push_str(&format!(
            "llvm.mlir.global internal @\"{name}\"() {{addr_space = 3 : i32, alignment = 16 : i64}} : \
             !llvm.array<{count} x f32>\n"
        ));
        self.value(format!("llvm.mlir.addressof @\"{name}\" : !llvm.ptr<3>"))
    }

    /// A table of constants in global memory.
    pub fn table(&mut self, values: &[f64]) -> Value {
        let name = format!("{}.table", self.entry);
        let list: Vec<String> = values.iter().map(|x| format!("0x{:016X}", x.to_bits())).collect();
        let (list, count) = (list.join(", "), values.len());
        self.globals.push_str(&format!(
            "llvm.mlir.global internal constant @\"{name}\"(dense<[{list}]> : tensor<{count}xf64>) \
             {{addr_space = 1 : i32, alignment = 16 : i64}} : !llvm.array<{count} x f64>\n"
        ));
        self.value(format!("llvm.mlir.addressof @\"{name}\" : !llvm.ptr<1>"))
    }

    // Columns.

    /// Deals out the columns; `body` gets the first columns of some of this thread's chunks, whose loads should
    /// come before their stores.
    pub fn columns(
        &mut self,
        team: &Team,
        width: u64,
        lanes: u64,
        mut body: impl FnMut(&mut Self, &[Value]),
    ) {
        let chunks = width.div_ceil(lanes);
        let first = self.with("muli", &team.index, lanes);
        let whole: Vec<u64> = (0..chunks / team.threads).map(|k| k * team.threads * lanes).collect();
        for some in whole.chunks(AHEAD) {
            let columns: Vec<Value> = some.iter().map(|offset| self.with("addi", &first, *offset)).collect();
            body(self, &columns);
        }
        let rest = chunks % team.threads;
        if rest > 0 {
            let inside = self.below(&team.index, rest);
            self.line(format!("scf.if {inside} {{"));
            let column = self.with("addi", &first, (chunks - rest) * lanes);
            body(self, &[column]);
            self.line("}");
        }
    }

    /// The thread's chunks of `base[0..width]` in order, f32; zeros for what is beyond the width.
    pub fn held(&mut self, team: &Team, width: u64, lanes: u64, base: &str) -> Vec<Value> {
        let chunks = width.div_ceil(lanes);
        let first = self.with("muli", &team.index, lanes);
        let (whole, rest) = (chunks / team.threads, chunks % team.threads);
        let mut held = Vec::new();
        for k in 0..whole {
            let column = self.with("addi", &first, k * team.threads * lanes);
            held.push(self.load(Elem::F32, lanes, base, &column));
        }
        if rest > 0 {
            let (zero, ty) = (self.floats(lanes, 0.0), vector(lanes, "f32"));
            let inside = self.below(&team.index, rest);
            let value = self.value(format!("scf.if {inside} -> ({ty}) {{"));
            let column = self.with("addi", &first, (chunks - rest) * lanes);
            let loaded = self.load(Elem::F32, lanes, base, &column);
            self.line(format!("scf.yield {loaded} : {ty}\n}} else {{\nscf.yield {zero} : {ty}\n}}"));
            held.push(value);
        }
        held
    }
}
