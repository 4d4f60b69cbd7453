//! What tensor cores take and give: fragments of `mma.sync`, descriptors and products of `wgmma`.
//!
//! Lane l of a warp is written (g, t) = (l / 4, l % 4). An accumulator tile of 16 x 8 gives a lane the
//! elements (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1): PTX ISA 9.7.14.5.8. `wgmma` repeats that for
//! the four warps of a group (rows 16w ..) and along the columns (8j ..): 9.7.15.5.

use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::{BasicMetadataValueEnum, BasicValueEnum};

use super::emit::{Emit, Float, Int, Ptr, Var};

/// Bytes of 64 x 64 bf16.
pub const TILE_BYTES: u64 = 8192;

/// A 16-byte piece of a row: eight bf16, two a word.
pub type Chunk<'c> = [Int<'c>; 4];

impl<'c> Emit<'c> {
    /// `(g, t)` of this lane.
    pub fn lane_pair(&self) -> (Int<'c>, Int<'c>) {
        let lane = self.and(self.thread(), self.int(31));
        self.div_rem(lane, 4)
    }

    /// Two f32 as bf16, `low` in the low half.
    pub fn pack_bf16(&self, low: Float<'c>, high: Float<'c>) -> Int<'c> {
        let (f32, i32) = (self.f32(), self.i32());
        let ty = i32.fn_type(&[f32.into(), f32.into()], false);
        let text = "cvt.rn.bf16x2.f32 $0, $1, $2;";
        self.asm(ty, text, "=r,f,f", false, &[high.into(), low.into()]).into_int_value()
    }

    /// Eight f32 at `base[index ..]`, aligned to 16 bytes, as bf16.
    pub fn load_as_chunk(&self, base: Ptr<'c>, index: Int<'c>) -> Chunk<'c> {
        let values = [self.load4(base, index), self.load4(base, self.add_const(index, 4))].concat();
        let value = |i: usize| self.widen(values[i]);
        [0, 2, 4, 6].map(|i| self.pack_bf16(value(i), value(i + 1)))
    }

    /// Sixteen bytes of global memory at `base` + `at` bytes (i64) + `plus`, past the first cache: they are read once.
    pub fn load_chunk(&self, base: Ptr<'c>, at: Int<'c>, plus: u64) -> Chunk<'c> {
        let text = &format!("ld.global.L1::no_allocate.v4.b32 {{$0, $1, $2, $3}}, [$4+{plus}];");
        let (i32, i64) = (self.i32(), self.i64());
        let result = self.structure(&[i32.into(); 4]);
        let ty = result.fn_type(&[i64.into()], false);
        let address = self.add(self.address(base), at);
        let found = self.asm(ty, text, "=r,=r,=r,=r,l", true, &[address.into()]);
        self.fields(found, 4)
            .map(BasicValueEnum::into_int_value)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or_else(|_| unreachable!("four results were asked for"))
    }

    /// `d += a b` of 16 x 16 by 16 x 8 in bf16 with f32 sums: `mma.sync.m16n8k16`. `a` holds rows (g, g + 8) of
    /// the lane's first pair of columns, then of its second; `b` the column's two pairs.
    pub fn mma(&self, d: &[Var<'c>], a: [Int<'c>; 4], b: [Int<'c>; 2]) {
        let (f32, i32) = (self.f32(), self.i32());
        let mut params: Vec<BasicMetadataTypeEnum<'c>> = vec![i32.into(); 6];
        params.extend(vec![BasicMetadataTypeEnum::from(f32); 4]);
        let ty = self.structure(&[f32.into(); 4]).fn_type(&params, false);
        let text = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {$0, $1, $2, $3}, \
                    {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};";
        let mut args: Vec<BasicMetadataValueEnum<'c>> = a.iter().chain(&b).map(|x| (*x).into()).collect();
        args.extend(d.iter().map(|d| BasicMetadataValueEnum::from(self.get_float(*d))));
        let sums = self.asm(ty, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", false, &args);
        for (d, sum) in d.iter().zip(self.fields(sums, 4)) {
            self.set(*d, sum);
        }
    }

    /// The descriptor of a matrix operand in shared memory at byte address `at` (i32): rows of 128 swizzled bytes,
    /// eight rows a KiB (PTX ISA 9.7.15.5.1.2.2).
    pub fn descriptor(&self, at: Int<'c>) -> Int<'c> {
        const SWIZZLE_128: u64 = 1 << 62;
        const STRIDE_1024: u64 = (1024 >> 4) << 32;
        const LEADING_1: u64 = 1 << 16;
        let low = self.wide(self.div_rem(self.and(at, self.int(0x3_ffff)), 16).0);
        self.or(low, self.i64().const_int(SWIZZLE_128 | STRIDE_1024 | LEADING_1, false))
    }

    /// `d = a b` (or `d += a b`) by one warp group, waited for: `a` of 64 x 16 steps, `b` of n x 16 steps, both in
    /// shared memory. `steps[i]` are the byte offsets of step i from the descriptors' addresses.
    pub fn wgmma(&self, d: &[Var<'c>], a: Int<'c>, b: Int<'c>, steps: &[(u64, u64)], keep: bool) {
        let text = shared_products(d.len(), steps, keep) + "wgmma.wait_group.sync.aligned 0; }";
        self.group_product(d, &text, &[a.into(), b.into()], "l,l");
    }

    /// `d += a b` alike, started and not waited for: [`Emit::wgmma_wait`] does that. The sums must not be touched before.
    pub fn wgmma_start(&self, d: &[Var<'c>], a: Int<'c>, b: Int<'c>, steps: &[(u64, u64)]) {
        let text = shared_products(d.len(), steps, true) + "}";
        self.group_product(d, &text, &[a.into(), b.into()], "l,l");
    }

    /// Waits until at most `left` started products are under way; the sums pass through.
    pub fn wgmma_wait(&self, d: &[Var<'c>], left: u64) {
        self.group_product(d, &format!("wgmma.wait_group.sync.aligned {left};"), &[], "");
    }

    /// `d += a b` with `a` in registers: four words a step of 16 columns; waited for.
    pub fn wgmma_registers(&self, d: &[Var<'c>], a: &[[Int<'c>; 4]], b: Int<'c>, steps: &[u64]) {
        let n = d.len() * 2;
        let regs = registers(d.len());
        let first = 2 * d.len();
        let db = format!("${}", first + 4 * a.len());
        let mut text =
            String::from("{ .reg .b64 db; .reg .pred yes; setp.eq.b32 yes, 0, 0; wgmma.fence.sync.aligned; ");
        for (i, bt) in steps.iter().enumerate() {
            let at = first + 4 * i;
            text.push_str(&format!(
                "add.s64 db, {db}, {}; wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{regs}}}, \
                 {{${at}, ${}, ${}, ${}}}, db, yes, 1, 1, 0; ",
                bt / 16,
                at + 1,
                at + 2,
                at + 3
            ));
        }
        text.push_str("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; }");
        let mut args: Vec<BasicMetadataValueEnum<'c>> = a.iter().flatten().map(|x| (*x).into()).collect();
        args.push(b.into());
        self.group_product(d, &text, &args, &format!("{}l", "r,".repeat(4 * a.len())));
    }

    /// Inline PTX in whose sums `d` every register is read and written.
    fn group_product(
        &self,
        d: &[Var<'c>],
        text: &str,
        more: &[BasicMetadataValueEnum<'c>],
        constraints: &str,
    ) {
        let f32 = self.f32();
        let result = self.structure(&vec![f32.into(); d.len()]);
        let mut params: Vec<BasicMetadataTypeEnum<'c>> = vec![f32.into(); d.len()];
        params.extend(constraints.split(',').filter(|c| !c.is_empty()).map(|c| match c {
            "l" => BasicMetadataTypeEnum::from(self.i64()),
            _ => self.i32().into(),
        }));
        let tied: Vec<String> = (0..d.len()).map(|i| i.to_string()).collect();
        let mut all = vec!["=f".to_string(); d.len()];
        all.extend(tied);
        all.extend(constraints.split(',').filter(|c| !c.is_empty()).map(String::from));
        all.push("~{memory}".to_string());
        let mut args: Vec<BasicMetadataValueEnum<'c>> =
            d.iter().map(|d| BasicMetadataValueEnum::from(self.get_float(*d))).collect();
        args.extend(more);
        let sums = self.asm(result.fn_type(&params, false), text, &all.join(","), true, &args);
        for (d, sum) in d.iter().zip(self.fields(sums, d.len())) {
            self.set(*d, sum);
        }
    }

    /// The largest of an unsigned int over the warp: `redux.sync`.
    pub fn warp_max_unsigned(&self, x: Int<'c>) -> Int<'c> {
        self.int_asm("redux.sync.max.u32 $0, $1, 0xffffffff;", x)
    }

    /// The smallest.
    pub fn warp_min_unsigned(&self, x: Int<'c>) -> Int<'c> {
        self.int_asm("redux.sync.min.u32 $0, $1, 0xffffffff;", x)
    }

    fn int_asm(&self, text: &str, x: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into()], false);
        self.asm(ty, text, "=r,r", true, &[x.into()]).into_int_value()
    }

    /// The address of global memory as an i64.
    pub fn address(&self, p: Ptr<'c>) -> Int<'c> {
        self.pointer_int(p, self.i64())
    }

    /// The byte address of shared memory as an i32.
    pub fn shared_address(&self, p: Ptr<'c>) -> Int<'c> {
        self.pointer_int(p, self.i32())
    }

    /// Shared memory of the launch's own size, aligned to 1024 bytes: a launch asks for [`SHARED_SLACK`] more than
    /// it uses.
    pub fn dynamic_shared(&self) -> Ptr<'c> {
        let base = self.external_shared("hyc_dynamic_shared");
        let at = self.shared_address(base);
        let skip = self.and(self.sub(self.int(0), at), self.int(1023));
        self.byte_offset(base, skip)
    }
}

/// What the alignment of dynamic shared memory may cost.
pub const SHARED_SLACK: u64 = 1024;

/// The PTX of a started product into `sums` registers, of both operands in shared memory; its block is left open. The
/// descriptors are the two operands behind the sums.
fn shared_products(sums: usize, steps: &[(u64, u64)], keep: bool) -> String {
    let (n, regs) = (sums * 2, registers(sums));
    let (da, db) = (format!("${}", 2 * sums), format!("${}", 2 * sums + 1));
    let mut text = String::from(
        "{ .reg .b64 da, db; .reg .pred no, yes; setp.ne.b32 no, 0, 0; setp.eq.b32 yes, 0, 0; \
         wgmma.fence.sync.aligned; ",
    );
    for (i, (at, bt)) in steps.iter().enumerate() {
        let more = if keep || i > 0 { "yes" } else { "no" };
        text.push_str(&format!(
            "add.s64 da, {da}, {}; add.s64 db, {db}, {}; \
             wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{regs}}}, da, db, {more}, 1, 1, 0, 0; ",
            at / 16,
            bt / 16
        ));
    }
    text + "wgmma.commit_group.sync.aligned; "
}

fn registers(count: usize) -> String {
    (0..count).map(|i| format!("${i}")).collect::<Vec<_>>().join(", ")
}
