//! Chat templates: minijinja, set up as transformers sets up jinja2 (trim_blocks, lstrip_blocks, loop controls, the sandbox)
//! and with Python's methods. What minijinja lacks is in python.rs.

use std::borrow::Cow;
use std::sync::Arc;

use minijinja::machinery::{self, CompiledTemplate, Instruction, Instructions, TemplateConfig, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use crate::python;

/// The bounds on a template. Templates in use stay far below them.
const MAX_SOURCE: usize = 128 << 10;
const MAX_OUTPUT: usize = 16 << 20;
/// One unit pays for one instruction or for 64 bytes of data, so it bounds both the time and the memory of a rendering.
const FUEL: u64 = 2_000_000;
/// The tokens of one tag. minijinja's parser recurses once for each of them at worst.
const MAX_TOKENS: usize = 2000;
/// The stack that a template within these bounds needs, and the size of a new one for a thread that has less left.
const STACK: usize = 4 << 20;
const OWN_STACK: usize = 16 << 20;

pub struct Template {
    program: CompiledTemplate<'static>, // borrows _source
    environment: Environment<'static>,
    _source: Arc<str>,
}

/// Why a template has no result.
pub enum Failure {
    /// It called raise_exception.
    Refused(String),
    Error(String),
}

impl Template {
    pub fn compile(source: &str) -> Result<Template, String> {
        stacker::maybe_grow(STACK, OWN_STACK, || Template::compile_here(source))
    }

    fn compile_here(source: &str) -> Result<Template, String> {
        if source.len() > MAX_SOURCE {
            return Err(format!("{} bytes are over the limit of {MAX_SOURCE}", source.len()));
        }
        let source: Arc<str> = prepare(source)?.into();
        // SAFETY: the text is on the heap, and the fields keep it for as long as the program, which no method gives away.
        let text: &'static str = unsafe { &*Arc::as_ptr(&source) };
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| describe(&e))?;
        check_tags(text, &syntax)?;
        let config = TemplateConfig { syntax_config: syntax, default_auto_escape: Arc::new(|_| AutoEscape::None) };
        let mut program = CompiledTemplate::new("chat template", text, &config).map_err(|e| describe(&e))?;
        program.instructions = pythonic(&program.instructions);
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_debug(false);
        python::install(&mut environment);
        Ok(Template { program, environment, _source: source })
    }

    /// The text for a context, which is a JSON object.
    pub fn render(&self, context: &[u8]) -> Result<String, Failure> {
        stacker::maybe_grow(STACK, OWN_STACK, || self.render_here(context))
    }

    fn render_here(&self, context: &[u8]) -> Result<String, Failure> {
        let context: Value =
            serde_json::from_slice(context).map_err(|e| Failure::Error(format!("the context: {e}")))?;
        let mut text = String::new();
        let done = machinery::eval(
            &self.environment,
            &self.program.instructions,
            context,
            &self.program.blocks,
            &mut machinery::make_string_output(&mut text),
            AutoEscape::None,
        );
        match done {
            Ok(_) if text.len() > MAX_OUTPUT => Err(Failure::Error(format!("more than {MAX_OUTPUT} bytes of output"))),
            Ok(_) => Ok(text),
            Err(error) => Err(match python::raised(&error) {
                Some(message) => Failure::Refused(message),
                None => Failure::Error(describe(&error)),
            }),
        }
    }
}

fn describe(error: &Error) -> String {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => {
            return format!(
                "line {}: the template takes more than {FUEL} steps, or makes more than {} MiB of text",
                error.line().unwrap_or(0),
                (FUEL * 64) >> 20
            )
        }
        kind => kind.to_string(),
    };
    let detail = error.detail().map_or(what.clone(), |d| format!("{what}: {d}"));
    let mut text = match error.line() {
        Some(line) => format!("line {line}: {detail}"),
        None => detail,
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&match inner.downcast_ref::<Error>() {
            Some(inner) => format!(": {}", inner.detail().unwrap_or(&inner.kind().to_string())),
            None => format!(": {inner}"),
        });
        cause = inner.source();
    }
    text
}

/// Replaces operators by filters of python.rs where minijinja's are not Python's. It also adds filters before each loop, because
/// minijinja loops over none as over an empty list, and wherever a value could grow without costing fuel.
fn pythonic<'a>(program: &Instructions<'a>) -> Instructions<'a> {
    let filter = |name, arguments| Instruction::ApplyFilter(name, Some(arguments), !0);
    let change = |instruction: &Instruction<'a>| match instruction {
        Instruction::PushLoop(_) => vec![filter(python::LOOP, 1), instruction.clone()],
        Instruction::Add
        | Instruction::Mul
        | Instruction::ApplyFilter(..)
        | Instruction::CallMethod(..)
        | Instruction::CallFunction(..)
        | Instruction::CallObject(..) => vec![instruction.clone(), filter(python::PLAIN, 1)],
        // The value is below the namespace.
        Instruction::SetAttr(_) => {
            vec![Instruction::Swap, filter(python::KEEP, 1), Instruction::Swap, instruction.clone()]
        }
        Instruction::Rem => vec![filter(python::REM, 2)],
        Instruction::GetItem => vec![filter(python::ITEM, 2)],
        Instruction::Slice => vec![filter(python::SLICE, 4)],
        Instruction::In => vec![filter(python::IN, 2)],
        Instruction::Lt => vec![filter(python::LT, 2)],
        Instruction::Lte => vec![filter(python::LE, 2)],
        Instruction::Gt => vec![filter(python::GT, 2)],
        Instruction::Gte => vec![filter(python::GE, 2)],
        _ => vec![instruction.clone()],
    };
    let changed: Vec<_> = (0..).map_while(|at| program.get(at)).map(change).collect();
    let mut moved = Vec::new();
    let mut next = 0;
    for new in &changed {
        moved.push(next);
        next += new.len() as u32;
    }
    let mut new = Instructions::new(program.name(), program.source());
    for (at, instructions) in changed.into_iter().enumerate() {
        for mut instruction in instructions {
            if let Instruction::Iterate(target)
            | Instruction::Jump(target)
            | Instruction::JumpIfFalse(target)
            | Instruction::JumpIfFalseOrPop(target)
            | Instruction::JumpIfTrueOrPop(target)
            | Instruction::BuildMacro(_, target, _) = &mut instruction
            {
                *target = moved.get(*target as usize).copied().unwrap_or(next);
            }
            new.add_with_line(instruction, program.get_line(at as u32).unwrap_or(1) as u16);
        }
    }
    new
}

fn check_tags(source: &str, syntax: &SyntaxConfig) -> Result<(), String> {
    let mut tokens = 0;
    for token in machinery::tokenize(source, false, syntax.clone()) {
        match token.map_err(|e| describe(&e))? {
            (Token::VariableStart | Token::BlockStart, _) => tokens = 0,
            (_, span) => {
                tokens += 1;
                if tokens > MAX_TOKENS {
                    return Err(format!("line {}: more than {MAX_TOKENS} tokens in one tag", span.start_line));
                }
            }
        }
    }
    Ok(())
}

/// Ends all lines with \n, as jinja2 does, and makes transformers' {% generation %} block, which marks the assistant's text, a
/// {% with %} block, which has the same scope.
fn prepare(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    if !source.contains("generation") {
        return Ok(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{#").into_iter().chain(rest.find("{%")).min() {
        let (tag, end) = if rest[at..].starts_with("{#") {
            ("", rest[at..].find("#}").map(|n| at + n + 2))
        } else {
            let end = rest[at..].find("%}").map(|n| at + n + 2);
            (end.map_or("", |end| &rest[at + 2..end - 2]), end)
        };
        let Some(mut end) = end else { break };
        let marks: &[_] = &['-', '+'];
        let word = tag.strip_prefix(marks).unwrap_or(tag);
        let word = word.strip_suffix(marks).unwrap_or(word).trim();
        let to = match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            "raw" => {
                let close = rest[end..].find("endraw").map_or(rest.len(), |n| end + n);
                end = rest[close..].find("%}").map_or(rest.len(), |n| close + n + 2);
                ""
            }
            _ => "",
        };
        out.push_str(&rest[..at]);
        let tag = &rest[at..end];
        out.push_str(&if to.is_empty() { Cow::Borrowed(tag) } else { Cow::Owned(tag.replacen(word, to, 1)) });
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(out)
}
