//! `Sample`: a token for each row of logits. Reference: `reference::pointwise::sample`, and with it
//! [`hyc_plan::sample::choose`], whose arithmetic this is to the bit.
//!
//! Block: one row after the other, [`THREADS`] threads, each with the row's elements `thread + i * THREADS`. The
//! order of the tokens is that of the numbers `(key << 32) | !id` ([`hyc_plan::sample::key`]), all of them
//! different. Every step (top-k, top-p, the draw) looks for the place in that order where a sum passes a target, by
//! bisection: first over keys, then over ids where keys are equal. A sum is one look at all elements that have a
//! weight; their ids are in scratch, each thread's own in a column of its own, so that nobody waits for anybody.
//!
//! Penalties come first: the block changes the logits of the row's list in place, each by one thread, and puts them
//! back when the token is known; the list's ids differ. A row without a list passes by.
//!
//! The kernel is PTX as the manual has it: it lives on 64-bit sums, shifts and rounding modes, and none of it
//! depends on a shape but the row's length.

use std::fmt::Write;
use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::sample::{EXP2, FLOOR, SampleParams, Seen};
use hyc_plan::sampling::MAX_PENALTY_WINDOW;
use hyc_plan::{Extent, Launch};

use crate::gpu::function::{Kernel, MULTIPROCESSORS};

/// Threads of a block: 32 warps, as many as one shuffle adds up.
const THREADS: u64 = 1024;

/// Makes the kernel.
pub fn sample(k: &mut Kernel<'_, '_>, vocab: u64) {
    // Rows beyond the blocks take turns.
    let blocks = MULTIPROCESSORS.min(k.spec.max_rows);
    let column = vocab.next_multiple_of(THREADS);
    let ids = 4 * k.scratch(4 * blocks * column);
    let most_seen = vocab.min(u64::from(MAX_PENALTY_WINDOW));
    let kept = 4 * k.scratch(4 * blocks * most_seen);
    let text = Text {
        name: k.name,
        vocab,
        logits_bytes: 4 * k.operands.stride("logits"),
        token_bytes: 4 * k.operands.stride("token"),
        blocks,
        ids,
        ids_bytes: 4 * column,
        kept,
        kept_bytes: 4 * most_seen,
    };
    k.module.set_inline_assembly(&text.kernel());
    k.launch(Launch {
        entry: k.name.to_string(),
        grid: [Extent::fixed(blocks), Extent::fixed(1)],
        threads: THREADS as u32,
        shared_bytes: 0,
        overlaps: false,
        when: None,
    });
}

/// The kernel's text and what is constant in it.
struct Text<'s> {
    name: &'s str,
    vocab: u64,
    /// From row to row of the logits, and of the tokens.
    logits_bytes: u64,
    token_bytes: u64,
    blocks: u64,
    /// Offset of the ids in the scratch, and from block to block.
    ids: u64,
    ids_bytes: u64,
    /// The same of the logits that penalties have changed, as they were.
    kept: u64,
    kept_bytes: u64,
}

/// An f32 as PTX writes it.
fn float(x: f32) -> String {
    format!("0f{:08X}", x.to_bits())
}

/// Ends the sum (or maximum, with `max`) of `%acc` over the block: every thread has it.
fn reduce(op: &str) -> String {
    let mut warp = String::new();
    for lanes in [16, 8, 4, 2, 1] {
        let _ = write!(
            warp,
            "
    mov.b64 {{%lo, %hi}}, %acc;
    shfl.sync.bfly.b32 %lo, %lo, {lanes}, 31, -1;
    shfl.sync.bfly.b32 %hi, %hi, {lanes}, 31, -1;
    mov.b64 %other, {{%lo, %hi}};
    {op}.u64 %acc, %acc, %other;"
        );
    }
    format!(
        "{warp}
    bar.sync 0;
    @%first st.shared.u64 [%warp_at], %acc;
    bar.sync 0;
    ld.shared.u64 %acc, [%lane_at];{warp}"
    )
}

impl Text<'_> {
    /// `%key` of the logit `%x`, -0 taken for 0.
    fn key() -> &'static str {
        "
    add.rn.f32 %x, %x, 0f00000000;
    mov.b32 %bits, %x;
    shr.s32 %key, %bits, 31;
    or.b32 %key, %key, 0x80000000;
    xor.b32 %key, %bits, %key;"
    }

    /// `%y` of the logit `%x`: its distance from the largest, in powers of two.
    fn distance() -> &'static str {
        "
    sub.rn.f32 %y, %x, %most;
    mul.rn.f32 %y, %y, %scale;"
    }

    /// `%w`, the weight of the logit `%x`, which has one.
    fn weight() -> String {
        let mut text = format!(
            "{}
    cvt.rni.f32.f32 %whole, %y;
    sub.rn.f32 %rest, %y, %whole;
    mov.f32 %power, {};",
            Text::distance(),
            float(EXP2[0])
        );
        for c in &EXP2[1..] {
            let _ = write!(text, "\n    fma.rn.f32 %power, %power, %rest, {};", float(*c));
        }
        let _ = write!(
            text,
            "
    mul.rn.f32 %power, %power, {};
    cvt.rzi.u32.f32 %w, %power;
    shl.b32 %w, %w, 6;
    cvt.rni.s32.f32 %shift, %whole;
    neg.s32 %shift, %shift;
    shr.u32 %w, %w, %shift;",
            float((1 << 24) as f32)
        );
        text
    }

    /// A loop over this thread's elements that have a weight: `body` gets `%x`, `%id` and `%place`.
    fn each(label: &str, body: &str) -> String {
        let key = Text::key();
        format!(
            "
    mov.u32 %i, 0;
    mov.u64 %at, %mine;
{label}_next:
    setp.ge.u32 %done, %i, %count;
    @%done bra {label}_end;
    ld.global.u32 %id, [%at];
    mad.wide.u32 %from, %id, 4, %row;
    ld.global.f32 %x, [%from];{key}
    not.b32 %low, %id;
    mov.b64 %place, {{%low, %key}};{body}
    add.u32 %i, %i, 1;
    add.u64 %at, %at, {};
    bra {label}_next;
{label}_end:",
            4 * THREADS
        )
    }

    /// `%acc`: the sum over the block of what the stage measures (one a token for top-k, else weights of at least
    /// `%least`) over tokens from `%bound` up.
    fn sum(label: &str) -> String {
        let weight = Text::weight();
        let body = format!(
            "
    setp.lt.u64 %skip, %place, %bound;
    @%skip bra {label}_skip;{weight}
    setp.lt.u32 %skip, %w, %least;
    selp.u32 %w, 0, %w, %skip;
    selp.u32 %w, 1, %w, %unit;
    cvt.u64.u32 %wide, %w;
    add.u64 %acc, %acc, %wide;
{label}_skip:"
        );
        format!("\n    mov.u64 %acc, 0;{}{}", Text::each(label, &body), reduce("add"))
    }

    /// `%pass`: whether the sum over what is kept from `%bound` up passes the target.
    fn passes(label: &str) -> String {
        format!(
            "
    max.u64 %bound, %bound, %cut;{}
    setp.gt.u64 %pass, %acc, %target;",
            Text::sum(label)
        )
    }

    /// Halves `%below..=%above` until the largest number whose `bound` passes is left in `%below`.
    fn bisect(label: &str, bound: &str) -> String {
        format!(
            "
{label}_halve:
    setp.ge.u32 %done, %below, %above;
    @%done bra {label}_found;
    sub.u32 %middle, %above, %below;
    shr.u32 %key, %middle, 1;
    and.b32 %middle, %middle, 1;
    add.u32 %middle, %middle, %key;
    add.u32 %middle, %middle, %below;
    {bound}{}
    @%pass mov.u32 %below, %middle;
    @%pass bra {label}_halve;
    sub.u32 %above, %middle, 1;
    bra {label}_halve;
{label}_found:",
            Text::passes(label)
        )
    }

    /// A loop over this thread's part of the row's list: `body` gets the entry's address `%entry`, the logit's `%from`,
    /// and `%at`, where it is kept.
    fn each_seen(label: &str, body: &str) -> String {
        format!(
            "
    mov.u32 %i, %thread;
{label}_next:
    setp.ge.u32 %done, %i, %seen;
    @%done bra {label}_end;
    mad.wide.u32 %entry, %i, {entry_bytes}, %list;
    mad.wide.u32 %at, %i, 4, %kept;
    ld.global.u32 %id, [%entry + {id}];
    mad.wide.u32 %from, %id, 4, %row;{body}
    add.u32 %i, %i, {THREADS};
    bra {label}_next;
{label}_end:",
            entry_bytes = size_of::<Seen>(),
            id = offset_of!(Seen, id),
        )
    }

    /// Changes the logits of the row's list, which `%from` in the parameters says, as
    /// [`hyc_plan::sample::penalised`] does; the others wait for them.
    fn penalise() -> String {
        let body = format!(
            "
    ld.global.f32 %x, [%from];
    st.global.f32 [%at], %x;
    mov.b32 %bits, %x;
    and.b32 %bits, %bits, 0x7f800000;
    setp.eq.u32 %skip, %bits, 0x7f800000;
    @%skip bra penal_skip;
    div.rn.f32 %y, %x, %repeat;
    mul.rn.f32 %whole, %x, %repeat;
    setp.gt.f32 %skip, %x, 0f00000000;
    selp.f32 %x, %y, %whole, %skip;
    ld.global.u32 %count, [%entry + {generated}];
    cvt.rn.f32.u32 %y, %count;
    mul.rn.f32 %y, %y, %frequency;
    sub.rn.f32 %x, %x, %y;
    setp.ne.u32 %skip, %count, 0;
    selp.f32 %y, %presence, 0f00000000, %skip;
    sub.rn.f32 %x, %x, %y;
    min.f32 %x, %x, {most};
    max.f32 %x, %x, {least};
    st.global.f32 [%from], %x;
penal_skip:",
            generated = offset_of!(Seen, generated),
            most = float(f32::MAX),
            least = float(f32::MIN),
        );
        let param =
            |name: &str, kind: &str, at: usize| format!("\n    ld.global.{kind} %{name}, [%from + {at}];");
        [
            param("i", "u32", offset_of!(SampleParams, first_seen)),
            param("repeat", "f32", offset_of!(SampleParams, repeat)),
            param("presence", "f32", offset_of!(SampleParams, presence)),
            param("frequency", "f32", offset_of!(SampleParams, frequency)),
            format!(
                "
    ld.global.u64 %list, [%context + {}];
    cvta.to.global.u64 %list, %list;
    mad.wide.u32 %list, %i, {}, %list;{}
    bar.sync 0;",
                offset_of!(StepContext, seen),
                size_of::<Seen>(),
                Text::each_seen("penal", &body)
            ),
        ]
        .concat()
    }

    /// The largest place of the row to `%top`, ~0 where a logit is no finite number.
    fn largest(&self) -> String {
        format!(
            "
    mov.u64 %acc, 0;
    mov.u32 %id, %thread;
top_next:
    setp.ge.u32 %done, %id, {vocab};
    @%done bra top_end;
    mad.wide.u32 %from, %id, 4, %row;
    ld.global.f32 %x, [%from];{key}
    not.b32 %low, %id;
    mov.b64 %place, {{%low, %key}};
    and.b32 %bits, %bits, 0x7f800000;
    setp.eq.u32 %skip, %bits, 0x7f800000;
    selp.u64 %place, -1, %place, %skip;
    max.u64 %acc, %acc, %place;
    add.u32 %id, %id, {THREADS};
    bra top_next;
top_end:{reduce}
    mov.u64 %top, %acc;",
            vocab = self.vocab,
            key = Text::key(),
            reduce = reduce("max"),
        )
    }

    /// The ids of this thread's elements that have a weight, to its column.
    fn collect(&self) -> String {
        format!(
            "
    mov.u32 %count, 0;
    mov.u64 %at, %mine;
    mov.u32 %id, %thread;
list_next:
    setp.ge.u32 %done, %id, {vocab};
    @%done bra list_end;
    mad.wide.u32 %from, %id, 4, %row;
    ld.global.f32 %x, [%from];{distance}
    setp.ge.f32 %skip, %y, {floor};
    @!%skip bra list_skip;
    st.global.u32 [%at], %id;
    add.u64 %at, %at, {column};
    add.u32 %count, %count, 1;
list_skip:
    add.u32 %id, %id, {THREADS};
    bra list_next;
list_end:",
            vocab = self.vocab,
            distance = Text::distance(),
            floor = float(FLOOR),
            column = 4 * THREADS,
        )
    }

    /// Top-k, top-p, the draw: of each the target, and the place where the sum passes it, as key `%found` and low
    /// word `%below`.
    fn stages(&self) -> String {
        let total = Text::sum("total");
        let keys = Text::bisect("keys", "mov.b64 %bound, {%zero, %middle};");
        let ids = Text::bisect("ids", "mov.b64 %bound, {%middle, %found};");
        // The first of the tokens with the found key: mostly the only one.
        let first = "
    shr.u64 %wide, %place, 32;
    cvt.u32.u64 %key, %wide;
    setp.eq.u32 %skip, %key, %found;
    selp.u64 %place, %place, 0, %skip;
    max.u64 %acc, %acc, %place;";
        format!(
            "
    mov.u32 %stage, 0;
    mov.u64 %cut, 0;
stage_begin:
    setp.eq.u32 %unit, %stage, 0;
    setp.eq.u32 %last, %stage, 2;
    selp.u32 %least, %min_weight, 1, %last;
    mov.u64 %bound, %cut;{total}
    @%last bra stage_draw;
    @%unit bra stage_rank;
    setp.lt.f32 %skip, %share, 0f3F800000;
    @!%skip bra stage_end;
    cvt.rn.f64.u64 %product, %acc;
    cvt.f64.f32 %part, %share;
    mul.rn.f64 %product, %product, %part;
    cvt.rpi.u64.f64 %target, %product;
    max.u64 %target, %target, 1;
    sub.u64 %target, %target, 1;
    bra stage_search;
stage_rank:
    setp.eq.u32 %skip, %rank, 0;
    @%skip bra stage_end;
    cvt.u64.u32 %target, %rank;
    setp.ge.u64 %skip, %target, %acc;
    @%skip bra stage_end;
    sub.u64 %target, %target, 1;
    bra stage_search;
stage_draw:
    mul.hi.u64 %target, %draw, %acc;
stage_search:
    mov.u32 %below, 0;
    shr.u64 %wide, %top, 32;
    cvt.u32.u64 %above, %wide;{keys}
    mov.u32 %found, %below;
    mov.u64 %acc, 0;{tie}{max}
    mov.u64 %bound, %acc;
    mov.b64 {{%below, %key}}, %acc;
    sub.u32 %above, %below, 1;{test}
    @%pass bra stage_known;
    mov.u32 %below, {lowest};{ids}
stage_known:
    @%last bra stage_done;
    mov.b64 %cut, {{%below, %found}};
stage_end:
    add.u32 %stage, %stage, 1;
    bra stage_begin;
stage_done:
    not.b32 %token, %below;",
            tie = Text::each("tie", first),
            max = reduce("max"),
            test = Text::passes("test"),
            lowest = !(self.vocab as u32 - 1),
        )
    }

    fn kernel(&self) -> String {
        let Text { name, logits_bytes, token_bytes, blocks, ids, ids_bytes, kept, kept_bytes, .. } = self;
        let body = [&self.largest(), GREEDY, &self.collect(), &self.stages()].concat();
        let context = |field: usize| format!("ld.global.u64 %wide, [%context + {field}];");
        format!(
            "
.visible .entry {name}(
    .param .u64 p_context, .param .u64 p_logits, .param .u64 p_token, .param .u64 p_scratch
)
.maxntid {THREADS}, 1, 1
{{
    .reg .pred %done, %skip, %pass, %unit, %last, %first;
    .reg .b32 %thread, %block, %lane, %warp, %i, %id, %count, %bits, %key, %low, %w, %least, %lo, %hi;
    .reg .b32 %below, %above, %middle, %found, %stage, %rank, %min_weight, %token, %zero, %index, %rows;
    .reg .s32 %shift;
    .reg .b32 %seen;
    .reg .f32 %x, %y, %most, %scale, %whole, %rest, %power, %share, %repeat, %presence, %frequency;
    .reg .f64 %product, %part;
    .reg .b64 %context, %logits, %out, %scratch, %row, %mine, %at, %from, %place, %bound, %cut, %target;
    .reg .b64 %acc, %other, %wide, %top, %draw, %params, %warp_at, %lane_at, %partial;
    .reg .b64 %list, %entry, %kept;
    .shared .align 8 .b8 {name}_partial[256];
    ld.param.u64 %context, [p_context];
    ld.param.u64 %logits, [p_logits];
    ld.param.u64 %out, [p_token];
    ld.param.u64 %scratch, [p_scratch];
    cvta.to.global.u64 %context, %context;
    cvta.to.global.u64 %logits, %logits;
    cvta.to.global.u64 %out, %out;
    cvta.to.global.u64 %scratch, %scratch;
    mov.u32 %zero, 0;
    mov.u32 %thread, %tid.x;
    mov.u32 %block, %ctaid.x;
    and.b32 %lane, %thread, 31;
    shr.u32 %warp, %thread, 5;
    setp.eq.u32 %first, %lane, 0;
    mov.u64 %partial, {name}_partial;
    mad.wide.u32 %warp_at, %warp, 8, %partial;
    mad.wide.u32 %lane_at, %lane, 8, %partial;
    mad.wide.u32 %mine, %block, {ids_bytes}, %scratch;
    mad.wide.u32 %mine, %thread, 4, %mine;
    add.u64 %mine, %mine, {ids};
    mad.wide.u32 %kept, %block, {kept_bytes}, %scratch;
    add.u64 %kept, %kept, {kept};
    {outputs}
    cvt.u32.u64 %rows, %wide;
    {sampling}
    mov.u64 %params, %wide;
    cvta.to.global.u64 %params, %params;
    mov.u32 %index, %block;
row_next:
    setp.ge.u32 %done, %index, %rows;
    @%done bra row_end;
    mad.wide.u32 %row, %index, {logits_bytes}, %logits;
    mad.wide.u32 %from, %index, {params_bytes}, %params;
    ld.global.f32 %scale, [%from + {scale}];
    ld.global.u32 %rank, [%from + {top_k}];
    ld.global.f32 %share, [%from + {top_p}];
    ld.global.u32 %min_weight, [%from + {least}];
    ld.global.u64 %draw, [%from + {draw}];
    ld.global.u32 %seen, [%from + {seen}];
    setp.eq.u32 %skip, %seen, 0;
    @%skip bra row_ready;{penalise}
row_ready:{body}
token_known:
    setp.eq.u32 %skip, %seen, 0;
    @%skip bra row_left;
    bar.sync 0;{put_back}
row_left:
    setp.ne.u32 %skip, %thread, 0;
    @%skip bra token_stored;
    mad.wide.u32 %from, %index, {token_bytes}, %out;
    st.global.u32 [%from], %token;
token_stored:
    add.u32 %index, %index, {blocks};
    bra row_next;
row_end:
    ret;
}}
",
            outputs = context(offset_of!(StepContext, outputs)),
            sampling = context(offset_of!(StepContext, sampling)),
            params_bytes = size_of::<SampleParams>(),
            scale = offset_of!(SampleParams, scale),
            top_k = offset_of!(SampleParams, top_k),
            top_p = offset_of!(SampleParams, top_p),
            least = offset_of!(SampleParams, least),
            draw = offset_of!(SampleParams, draw),
            seen = offset_of!(SampleParams, seen),
            penalise = Text::penalise(),
            put_back =
                Text::each_seen("back", "\n    ld.global.f32 %x, [%at];\n    st.global.f32 [%from], %x;"),
        )
    }
}

/// The rows that are done once the largest logit is known: those of no numbers, and the greedy ones.
const GREEDY: &str = "
    mov.u32 %token, -1;
    setp.eq.u64 %skip, %top, -1;
    @%skip bra token_known;
    mov.b64 {%low, %key}, %top;
    not.b32 %token, %low;
    setp.eq.f32 %skip, %scale, 0f00000000;
    @%skip bra token_known;
    mad.wide.u32 %from, %token, 4, %row;
    ld.global.f32 %most, [%from];";
