//! Conversations: a chat template makes one text of a list of messages, as Hugging Face's transformers does, and the
//! text becomes tokens of which those alone are special that the template wrote.

mod bounded;
mod date;
mod json;
mod message;
mod python;
mod shield;
mod stack;

use std::time::SystemTime;

use hyc_plan::text_settings::MAX_TEMPLATE_BYTES;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};

use self::bounded::Bounded;
pub use self::message::Message;
use self::shield::Shield;
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::Tokenizer;

/// Operators of a template: the parser takes time by the square of a chain's length.
const MAX_OPERATORS: usize = 8192;
/// Steps that a template may take, beside those for each message, and for each byte of them. A step also pays for 64
/// bytes of text that is made. The published ones take some hundred, and some dozen for each message.
const STEPS: u64 = 50_000;
const MESSAGE_STEPS: u64 = 2_000;
const STEP_BYTES: u64 = 2;
/// Most steps for one conversation.
const MAX_STEPS: u64 = 4_000_000;
/// Most bytes of the text that it makes.
const MAX_BYTES: usize = 256 << 20;
/// How the environment knows the template.
const NAME: &str = "chat_template";
/// What stands before the words of a template that does not take a conversation.
const RAISED: &str = "raised: ";

/// A Jinja template that makes a prompt of a conversation.
///
/// It is rendered as transformers does: blocks take the newline after them and the blanks before them; there are
/// `raise_exception`, `strftime_now` (in UTC), `tojson`, Python's methods of strings, lists and tables, and the
/// variables `messages`, `add_generation_prompt`, `bos_token`, `eos_token`, and `tools` and `documents`, which are none.
///
/// ```
/// # use hyc_handmade::Parts;
/// # use hyc_runtime::{ChatTemplate, Message, Tokenizer};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let model = Parts::new().with_tokenizer().load()?;
/// # let tokenizer = Tokenizer::of(&model)?;
/// let template = ChatTemplate::new("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")?;
/// let conversation = [Message::new("user", "Hello")];
/// let text = template.render(&tokenizer, &conversation, true, std::time::SystemTime::now())?;
/// assert_eq!(text, "<user>Hello");
/// # Ok(())
/// # }
/// ```
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// The template of the tokenizer's settings. Errors: there is none; those of [`ChatTemplate::new`].
    pub fn of(tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let source = tokenizer.settings().chat_template.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::BadInput, "the model has no chat template").help(
                "name one as `chat_template` or `chat_template_file` under [tokenizer] and compile again, \
                 or use `hyc run`, which continues a text",
            )
        })?;
        ChatTemplate::new(source)
    }

    /// A template of this text. Errors: it does not parse; the line is named.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        if source.len() > MAX_TEMPLATE_BYTES {
            let bytes = source.len();
            let message = format!("the chat template has {bytes} bytes: more than {MAX_TEMPLATE_BYTES}");
            return Err(Error::new(ErrorKind::BadInput, message));
        }
        if source.bytes().filter(|byte| b"~+*/".contains(byte)).count() > MAX_OPERATORS {
            let message = format!("the chat template has more than {MAX_OPERATORS} of `~`, `+`, `*` and `/`");
            return Err(Error::new(ErrorKind::BadInput, message));
        }
        let source = without_training_marks(source);
        let environment = stack::with_room(source.len(), 0, || {
            let mut environment = environment()?;
            environment.add_template_owned(NAME, source.clone()).map_err(template_error)?;
            Ok(environment)
        })?;
        Ok(ChatTemplate { environment, source })
    }

    /// The text of a conversation. `reply`: with what begins the assistant's next turn. `now` is what
    /// `strftime_now` says.
    ///
    /// Errors: a role that is none, see [`Message::role`]; the template does not take the conversation, or fails; the
    /// line is named.
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        reply: bool,
        now: SystemTime,
    ) -> Result<String> {
        messages.iter().try_for_each(|message| check_role(&message.role))?;
        let bytes: u64 = messages.iter().map(|message| message.content.len() as u64).sum();
        let steps = STEPS + MESSAGE_STEPS * messages.len() as u64 + bytes / STEP_BYTES;
        let steps = steps.min(MAX_STEPS);
        let settings = tokenizer.settings();
        let spelling = |token: Option<u32>| token.and_then(|token| tokenizer.spelling(token));
        let (bos, eos) = (spelling(settings.bos), spelling(settings.eos.first().copied()));
        stack::with_room(self.source.len(), steps, || {
            let mut environment = self.environment.clone();
            environment.set_fuel(Some(steps));
            environment.add_function("strftime_now", move |format: String| {
                date::format(&format, now)
                    .map_err(|e| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, e))
            });
            let token = |text: Option<String>| text.map_or(Value::UNDEFINED, Value::from);
            let context = context! {
                messages => messages.iter().map(Message::value).collect::<Value>(),
                add_generation_prompt => reply,
                bos_token => token(bos),
                eos_token => token(eos),
                tools => Value::from(()),
                documents => Value::from(()),
            };
            let template = environment.get_template(NAME).map_err(template_error)?;
            let mut out = Bounded { bytes: Vec::new(), most: MAX_BYTES };
            template.render_captured_to(context, &mut out).map_err(template_error)?;
            String::from_utf8(out.bytes)
                .map_err(|_| Error::new(ErrorKind::BadInput, "the chat template made no text"))
        })
    }

    /// The tokens of a conversation, for [`generate`](crate::generate). Nothing is added to what the template
    /// writes, and what a message spells like a special token is text: nobody ends a turn, or begins one of the
    /// system's, from within a message.
    ///
    /// A segment between two special tokens in which a message has such a spelling is tokenised by itself.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], reply: bool) -> Result<Vec<u32>> {
        let shield = Shield::new(tokenizer, &self.source, messages)?;
        let shielded: Vec<Message> =
            messages.iter().map(|m| Message::new(&m.role, shield.protect(&m.content))).collect();
        let text = self.render(tokenizer, &shielded, reply, SystemTime::now())?;
        let tokens = shield.encode(tokenizer, &text, messages)?;
        if tokens.is_empty() {
            return Err(Error::new(
                ErrorKind::BadInput,
                "the chat template made no tokens of the conversation",
            )
            .help("is it one for conversations, and does it take these roles?"));
        }
        Ok(tokens)
    }
}

/// What templates of transformers find.
fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(template_error)?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None => Ok(out.write_str("None")?),
        ValueKind::Bool => Ok(out.write_str(if value.is_true() { "True" } else { "False" })?),
        _ if value.as_object().is_some() => Ok(out.write_str(&python::printed(state, value)?)?),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        let detail = format!("{RAISED}{message}");
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, detail))
    });
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", python::string);
    // Indented by their levels, deep values have no end; no template prints for a programmer.
    environment.remove_filter("pprint");
    environment.remove_global("debug");
    environment.set_debug(false);
    Ok(environment)
}

/// Templates write roles between special tokens, and make such tokens of them.
fn check_role(role: &str) -> Result<()> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if !role.is_empty() && role.chars().all(plain) {
        return Ok(());
    }
    let shown: String = role.chars().take(40).collect();
    Err(Error::new(ErrorKind::BadInput, format!("{shown:?} is no role"))
        .help("a role has letters, digits, `_` and `-`: `user`"))
}

/// `{% generation %}`, which says to transformers' training what the assistant wrote, as a block that does nothing.
fn without_training_marks(source: &str) -> String {
    let (mut out, mut rest) = (String::new(), source);
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((inside, after)) = tag.split_once("%}") else { break };
        let plain = match inside.trim_matches(['-', '+']).trim() {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        let mark = |edge: Option<char>| edge.filter(|c| ['-', '+'].contains(c)).map(String::from);
        let first = mark(inside.chars().next()).unwrap_or_default();
        let last = mark(inside.chars().last()).unwrap_or_default();
        out.push_str(before);
        match plain {
            Some(word) => out.push_str(&format!("{{%{first} {word} {last}%}}")),
            None => out.push_str(&format!("{{%{inside}%}}")),
        }
        rest = after;
    }
    out + rest
}

fn template_error(error: minijinja::Error) -> Error {
    let place = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
    let detail = error.detail().unwrap_or_default();
    if let Some(words) = detail.strip_prefix(RAISED) {
        let message = format!("the chat template does not take this conversation: {words}");
        return Error::new(ErrorKind::BadInput, message);
    }
    let kind = error.kind();
    let what = if detail.is_empty() { kind.to_string() } else { format!("{kind}: {detail}") };
    let message = format!("the chat template{place}: {what}");
    let error = Error::new(ErrorKind::BadInput, message);
    match kind {
        minijinja::ErrorKind::OutOfFuel => {
            error.help("it takes more steps, or makes more text, than the conversation gives reason for")
        }
        minijinja::ErrorKind::WriteFailure => error.help(format!("it makes more than {MAX_BYTES} bytes")),
        _ => error,
    }
}
