//! Products of a warp group: `wgmma`, its descriptors, and the alignment of shared memory that they want.

use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::BasicMetadataValueEnum;

use super::emit::{Emit, Int, Var};

impl<'c> Emit<'c> {
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

    /// The same, started and not waited for: [`Emit::wgmma_wait`] does that. The sums must not be touched before.
    pub fn wgmma_start(&self, d: &[Var<'c>], a: Int<'c>, b: Int<'c>, steps: &[(u64, u64)], keep: bool) {
        let text = shared_products(d.len(), steps, keep) + "}";
        self.group_product(d, &text, &[a.into(), b.into()], "l,l");
    }

    /// Waits until at most `left` started products are under way; the sums pass through.
    pub fn wgmma_wait(&self, d: &[Var<'c>], left: u64) {
        self.group_product(d, &format!("wgmma.wait_group.sync.aligned {left};"), &[], "");
    }

    /// `d += a b` with `a` of bf16 in registers, four words a step of 16 columns, or `d = a b` where `more` is given and does not
    /// hold (an i1); started and not waited for. Neither the sums nor `a` must be touched before.
    pub fn wgmma_registers_start(
        &self,
        (d, more): (&[Var<'c>], Option<Int<'c>>),
        a: &[[Int<'c>; 4]],
        b: Int<'c>,
        steps: &[u64],
    ) {
        self.registers_product((d, more), a, b, steps, ("k16.f32.bf16.bf16", "1, 1, 0"));
    }

    /// The same of numbers of E4M3, four a word: a step has 32 columns.
    pub fn wgmma_fp8_start(
        &self,
        (d, more): (&[Var<'c>], Option<Int<'c>>),
        a: &[[Int<'c>; 4]],
        b: Int<'c>,
        steps: &[u64],
    ) {
        self.registers_product((d, more), a, b, steps, ("k32.f32.e4m3.e4m3", "1, 1"));
    }

    fn registers_product(
        &self,
        (d, more): (&[Var<'c>], Option<Int<'c>>),
        a: &[[Int<'c>; 4]],
        b: Int<'c>,
        steps: &[u64],
        (types, last): (&str, &str),
    ) {
        let n = d.len() * 2;
        let regs = registers(d.len());
        let first = 2 * d.len();
        let db = first + 4 * a.len();
        let mut text =
            String::from("{ .reg .b64 db; .reg .pred yes; setp.eq.b32 yes, 0, 0; wgmma.fence.sync.aligned; ");
        if more.is_some() {
            text.push_str(&format!(".reg .pred more; setp.ne.b32 more, ${}, 0; ", db + 1));
        }
        for (i, bt) in steps.iter().enumerate() {
            let (at, added) = (first + 4 * i, if i == 0 && more.is_some() { "more" } else { "yes" });
            text.push_str(&format!(
                "add.s64 db, ${db}, {}; wgmma.mma_async.sync.aligned.m64n{n}{types} {{{regs}}}, \
                 {{${at}, ${}, ${}, ${}}}, db, {added}, {last}; ",
                bt / 16,
                at + 1,
                at + 2,
                at + 3
            ));
        }
        text.push_str("wgmma.commit_group.sync.aligned; }");
        let mut args: Vec<BasicMetadataValueEnum<'c>> = a.iter().flatten().map(|x| (*x).into()).collect();
        args.push(b.into());
        args.extend(more.map(|more| BasicMetadataValueEnum::from(self.flag(more))));
        let of_more = if more.is_some() { ",r" } else { "" };
        self.group_product(d, &text, &args, &format!("{}l{of_more}", "r,".repeat(4 * a.len())));
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
}

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
