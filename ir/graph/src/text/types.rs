//! Types in the text form.

use super::cursor::{Cursor, Fail};
use super::lex::Kind;
use super::nearest::nearest;
use crate::types::{CacheType, Dim, ListsType, SelectionType, Sym, Type};
use hyc_plan::{CachePolicy, Elem, KvCodec, ListShape, SelectShape};

/// What a type's text begins with.
const KINDS: [&str; 5] = ["tensor", "weight", "cache", "selection", "lists"];

/// One type.
pub fn parse_type(c: &mut Cursor<'_>) -> Result<Type, Fail> {
    let at = c.column();
    let word = c.word("a type")?;
    match word {
        "tensor" => {
            let (dims, at, word) = shape(c)?;
            let elem = elem(&word).ok_or_else(|| {
                let message =
                    format!("`{word}` is neither tokens, context, batch, outputs nor f32, bf16, i32");
                Fail::new(at, message)
            })?;
            Ok(Type::Tensor { elem, dims })
        }
        "weight" => {
            let (dims, at, word) = shape(c)?;
            let codec = word.parse().map_err(|message: String| Fail::new(at, message))?;
            let constant = |dim: &Dim| match dim {
                Dim::Const(n) => Ok(*n),
                _ => Err(Fail::new(at, "a weight's shape is constant")),
            };
            Ok(Type::Weight { codec, dims: dims.iter().map(constant).collect::<Result<_, _>>()? })
        }
        "cache" => cache(c),
        "selection" => {
            let shape = selected(c)?;
            Ok(Type::Selection(SelectionType { shape, map: map(c)? }))
        }
        "lists" => lists(c),
        _ => {
            let message = format!("`{word}` is no type; types are {}", KINDS.join(", "));
            let help = nearest(word, &KINDS).map(|near| format!("did you mean `{near}`?"));
            Err(Fail { column: at, message, help })
        }
    }
}

fn elem(word: &str) -> Option<Elem> {
    match word {
        "f32" => Some(Elem::F32),
        "bf16" => Some(Elem::Bf16),
        "i32" => Some(Elem::I32),
        _ => None,
    }
}

fn sym(word: &str) -> Option<Sym> {
    match word {
        "tokens" => Some(Sym::Tokens),
        "context" => Some(Sym::Context),
        "batch" => Some(Sym::Batch),
        "outputs" => Some(Sym::Outputs),
        _ => None,
    }
}

/// `<dim x dim x word>`: the dimensions, and the last word with what stands behind it in parentheses, as in `int8(64)`.
fn shape(c: &mut Cursor<'_>) -> Result<(Vec<Dim>, usize, String), Fail> {
    c.punct("<")?;
    let mut dims = Vec::new();
    loop {
        if c.peek_kind() == Some(Kind::Number) {
            dims.push(Dim::Const(c.int()?));
        } else {
            let at = c.column();
            let word = c.word("a dimension or element type")?;
            let Some(sym) = sym(word) else {
                let mut word = word.to_string();
                if c.eat("(") {
                    word.push_str(&format!("({})", c.int()?));
                    c.punct(")")?;
                }
                c.punct(">")?;
                return Ok((dims, at, word));
            };
            if c.eat("/") {
                let at = c.column();
                match c.int()? {
                    0 => return Err(Fail::new(at, "a dimension cannot be divided by 0")),
                    n => dims.push(Dim::CeilDiv(sym, n)),
                }
            } else {
                dims.push(Dim::Sym(sym));
            }
        }
        c.keyword("x")?;
    }
}

/// `cache<4 x 128+128 x bf16, page 64, growing, map pages>`.
fn cache(c: &mut Cursor<'_>) -> Result<Type, Fail> {
    c.punct("<")?;
    let kv_heads = c.int()?;
    c.keyword("x")?;
    let qk_dim = c.int()?;
    c.punct("+")?;
    let v_dim = c.int()?;
    c.keyword("x")?;
    let at = c.column();
    let codec = match c.word("a codec")? {
        "f32" => KvCodec::F32,
        "bf16" => KvCodec::Bf16,
        "int8" => KvCodec::Int8,
        "fp8" => KvCodec::Fp8,
        _ => return Err(Fail::new(at, "f32, bf16, int8 or fp8 belongs here")),
    };
    c.punct(",")?;
    c.keyword("page")?;
    let page = c.int()?;
    c.punct(",")?;
    let at = c.column();
    let policy = match c.word("growing or ring")? {
        "growing" => CachePolicy::Growing,
        "ring" => {
            c.punct("(")?;
            let window = c.int()?;
            c.punct(",")?;
            let pages = c.int()?;
            c.punct(")")?;
            CachePolicy::Ring { window, pages }
        }
        _ => return Err(Fail::new(at, "a cache is `growing` or `ring(WINDOW, PAGES)`")),
    };
    let map = map(c)?;
    Ok(Type::Cache(CacheType { kv_heads, qk_dim, v_dim, codec, page, policy, map }))
}

/// `<4 x 16, block 64`.
fn selected(c: &mut Cursor<'_>) -> Result<SelectShape, Fail> {
    c.punct("<")?;
    let kv_heads = c.int()?;
    c.keyword("x")?;
    let blocks = c.int()?;
    c.punct(",")?;
    c.keyword("block")?;
    let block = c.int()?;
    Ok(SelectShape { kv_heads, block, blocks })
}

/// `<4 x 16, block 64, tile 48, least 512, map pages>`.
fn lists(c: &mut Cursor<'_>) -> Result<Type, Fail> {
    let shape = selected(c)?;
    let mut count = |word: &str| {
        c.punct(",")?;
        c.keyword(word)?;
        c.int()
    };
    let lists = ListShape { tile: count("tile")?, least: count("least")? };
    Ok(Type::Lists(ListsType { selection: SelectionType { shape, map: map(c)? }, lists }))
}

/// `, map NAME>`.
fn map(c: &mut Cursor<'_>) -> Result<String, Fail> {
    c.punct(",")?;
    c.keyword("map")?;
    let map = c.word("a page map's name")?.to_string();
    c.punct(">")?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Type, String> {
        let mut c = Cursor::new(text).map_err(|fail| fail.message)?;
        parse_type(&mut c).map_err(|fail| fail.message)
    }

    #[test]
    fn a_weight_is_of_a_codec_that_there_is() {
        for text in
            ["weight<4 x 3 x f32>", "weight<4 x 3 x int8(64)>", "weight<8 x fp8(1)>", "weight<8 x int4z(32)>"]
        {
            assert_eq!(read(text).map(|ty| ty.to_string()), Ok(text.to_string()));
        }
        for codec in ["i32", "int3(32)", "int4", "int8", "int8(0)", "q8"] {
            let error = read(&format!("weight<4 x 3 x {codec}>")).unwrap_err();
            assert!(error.starts_with(&format!("no codec is named `{codec}`")), "{error}");
        }
        let error = read("tensor<tokens x 3 x int8(64)>").unwrap_err();
        assert!(error.starts_with("`int8(64)` is neither tokens"), "{error}");
    }
}
