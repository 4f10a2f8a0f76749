//! What jinja2 has of Python and minijinja has not: methods, operators and filters that templates in use call.

use std::fmt;

use minijinja::formatting::{format as python_format, FormatStyle};
use minijinja::value::{from_args, Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Filters that stand for operators. No template can write their names.
pub const REM: &str = "operator%";
pub const SLICE: &str = "operator[:]";
pub const IN: &str = "operator-in";
pub const LT: &str = "operator<";
pub const LE: &str = "operator<=";
pub const GT: &str = "operator>";
pub const GE: &str = "operator>=";
pub const ITEM: &str = "operator[]";
pub const PLAIN: &str = "operator-plain";
pub const KEEP: &str = "operator-keep";
pub const LOOP: &str = "operator-for";

const MAX_INDENT: usize = 16;
const MAX_LEVELS: usize = 100;
const MAX_WIDTH: usize = 1 << 16; // of what a text is padded to
const MAX_TIME_FORMAT: usize = 1000;

fn invalid(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail)
}

pub fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);

    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(invalid("raise_exception").with_source(Raised(message)))
    });
    environment.add_function("strftime_now", |format: &str| strftime(format));
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    environment.add_function("joiner", minijinja_contrib::globals::joiner);

    environment.add_filter(REM, rem);
    environment.add_filter(SLICE, slice);
    environment.add_filter(IN, contained);
    environment.add_filter(ITEM, item);
    environment.add_filter(PLAIN, plain);
    environment.add_filter(KEEP, |state: &mut State, value: Value| {
        let kept = keep(state, &value, 0)?;
        Ok::<_, Error>(kept.unwrap_or(value))
    });
    environment.add_filter(LT, |a: &Value, b: &Value| comparable("<", a, b).map(|()| a < b));
    environment.add_filter(LE, |a: &Value, b: &Value| comparable("<=", a, b).map(|()| a <= b));
    environment.add_filter(GT, |a: &Value, b: &Value| comparable(">", a, b).map(|()| a > b));
    environment.add_filter(GE, |a: &Value, b: &Value| comparable(">=", a, b).map(|()| a >= b));
    environment.add_filter(
        LOOP,
        |value: Value| {
            if value.is_none() {
                Err(invalid("none is not iterable"))
            } else {
                Ok(value)
            }
        },
    );
    environment.add_filter("tojson", tojson);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_filter("forceescape", escape);
    environment.add_filter("string", |value: &Value| value.to_string());
    environment.add_filter("safe", |value: &Value| value.to_string());
    environment.add_filter("wordcount", |text: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("center", |text: &str, width: Option<usize>| pad(text, width.unwrap_or(80), ' ', 2));
    environment.add_filter("int", |value: &Value, default: Option<Value>, options: Kwargs| {
        number(value, "int", default, options, 0.into())
    });
    environment.add_filter("float", |value: &Value, default: Option<Value>, options: Kwargs| {
        number(value, "float", default, options, 0.0.into())
    });
    // Its time grows with the square of the depth.
    environment.add_filter("pprint", |_: &Value| Err::<Value, _>(invalid("pprint is not supported")));
    environment.add_filter("truncate", minijinja_contrib::filters::truncate);
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_filter("filesizeformat", minijinja_contrib::filters::filesizeformat);

    environment.add_test("sequence", |value: &Value| {
        value.kind() == ValueKind::Undefined || value.kind() == ValueKind::String || value.len().is_some()
    });
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// What raise_exception was given.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The message of raise_exception, if the error comes from it.
pub fn raised(error: &Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return Some(message.clone());
        }
        cause = inner.source();
    }
    None
}

/// left % right: the remainder with the sign of the divisor, or a text with its %s and the like filled in.
fn rem(left: &Value, right: &Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else {
        return remainder(left, right);
    };
    check_widths(text)?;
    let args = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right.clone()] };
    python_format(FormatStyle::Printf, text, &args).map(Value::from)
}

fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let kinds = || invalid(format!("% of {} and {}", left.kind(), right.kind()));
    for value in [left, right] {
        if !matches!(value.kind(), ValueKind::Number | ValueKind::Bool) {
            return Err(kinds());
        }
    }
    if let (Ok(a), Ok(b)) = (i128::try_from(left.clone()), i128::try_from(right.clone())) {
        if left.is_integer() && right.is_integer() || left.kind() == ValueKind::Bool || right.kind() == ValueKind::Bool
        {
            let r = a.checked_rem(b).ok_or_else(|| invalid("% by zero"))?;
            return Ok(Value::from(if r != 0 && (r < 0) != (b < 0) { r + b } else { r }));
        }
    }
    let (a, b) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if b == 0.0 {
        return Err(invalid("% by zero"));
    }
    let r = a % b;
    Ok(Value::from(if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }))
}

/// Refuses widths and precisions of more than four digits: minijinja pads to them before it charges fuel.
fn check_widths(format: &str) -> Result<(), Error> {
    let mut inside = false; // a field, from % or { to its letter or }
    let mut digits = 0;
    for c in format.chars() {
        match c {
            '%' | '{' => (inside, digits) = (true, 0),
            '0'..='9' => digits += 1,
            '}' => inside = false,
            '*' if inside => return Err(invalid("* as a width is not supported")),
            c if c.is_alphabetic() && digits == 0 => {}
            _ => digits = 0,
        }
        if inside && digits > 4 {
            return Err(invalid("a width of more than four digits"));
        }
    }
    Ok(())
}

fn item(state: &mut State, value: &Value, key: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 64)?;
    }
    value.get_item(key)
}

/// Makes a list of a lazy value, such as [1] * 1000000000 or the result of most filters. minijinja would compute its items at
/// every use, without charging fuel for them.
fn plain(state: &mut State, value: Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Iterable {
        return Ok(value);
    }
    let mut list = Vec::new();
    for item in value.try_iter()? {
        if list.len() % 8 == 0 {
            state.consume_fuel(4)?;
        }
        list.push(item);
    }
    Ok(Value::from(list))
}

/// Checks a value that is set in a namespace, and returns what to set instead if a part of it is lazy. Namespaces are the only
/// values that outlive a turn of a loop, so only through them can a loop nest values without end: at most MAX_LEVELS levels
/// are kept, and only data.
fn keep(state: &mut State, value: &Value, level: usize) -> Result<Option<Value>, Error> {
    if level > MAX_LEVELS {
        return Err(invalid(format!("more than {MAX_LEVELS} levels in a namespace")));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let mut changed = value.kind() == ValueKind::Iterable;
            let mut list = Vec::new();
            for item in value.try_iter()? {
                if list.len() % 4 == 0 {
                    state.consume_fuel(1)?;
                }
                let kept = keep(state, &item, level + 1)?;
                changed |= kept.is_some();
                list.push(kept.unwrap_or(item));
            }
            Ok(match (changed, value.is_tuple()) {
                (false, _) => None,
                (true, true) => Some(Value::from(Tuple::from(list))),
                (true, false) => Some(Value::from(list)),
            })
        }
        ValueKind::Map => {
            if value.as_object().is_some_and(|object| object.type_name().contains("Namespace")) {
                return Err(invalid("a namespace in a namespace"));
            }
            let mut changed = false;
            let mut pairs = Vec::new();
            for key in value.try_iter()? {
                state.consume_fuel(1)?;
                let item = value.get_item(&key)?;
                let kept = keep(state, &item, level + 1)?;
                changed |= kept.is_some();
                pairs.push((key, kept.unwrap_or(item)));
            }
            Ok(if changed { Some(Value::from_pairs(pairs)) } else { None })
        }
        ValueKind::Plain => Err(invalid("a namespace keeps only data")),
        _ => Ok(None),
    }
}

/// Refuses to order values that Python does not order.
fn comparable(operator: &str, left: &Value, right: &Value) -> Result<(), Error> {
    let number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    let text = |value: &Value| value.kind() == ValueKind::String;
    if (number(left) && number(right)) || (text(left) && text(right)) || (list(left) && list(right)) {
        return Ok(());
    }
    Err(invalid(format!("{operator} of {} and {}", left.kind(), right.kind())))
}

/// left in right
fn contained(state: &mut State, left: &Value, right: &Value) -> Result<bool, Error> {
    match right.kind() {
        ValueKind::String if left.kind() != ValueKind::String => Err(invalid(format!("{} in a text", left.kind()))),
        ValueKind::None => Err(invalid("in none")),
        ValueKind::Undefined => Ok(false),
        _ => state.perform_test("in", &[left.clone(), right.clone()]),
    }
}

/// The filters int and float, which return a default for what is not a number.
fn number(value: &Value, name: &str, default: Option<Value>, options: Kwargs, zero: Value) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or(zero);
    let base: u32 = if name == "int" { options.get::<Option<u32>>("base")?.unwrap_or(10) } else { 10 };
    options.assert_all_used()?;
    let text = value.as_str().map(|text| text.trim().replace('_', ""));
    let float = match &text {
        Some(text) => text.parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    if name == "float" {
        return Ok(float.map_or(default, Value::from));
    }
    let whole = match &text {
        Some(text) => {
            let digits = match base {
                16 => text.trim_start_matches("0x"),
                8 => text.trim_start_matches("0o"),
                2 => text.trim_start_matches("0b"),
                _ => text,
            };
            if !(2..=36).contains(&base) {
                return Err(invalid("int: the base is between 2 and 36"));
            }
            i128::from_str_radix(digits, base).ok()
        }
        None => i128::try_from(value.clone()).ok(),
    };
    let cut = float.filter(|n| n.is_finite() && n.abs() < 1e18).map(|n| n.trunc() as i128);
    Ok(whole.or(cut).map_or(default, Value::from))
}

/// value[start:stop:step], which is a list, a tuple or a text.
fn slice(state: &mut State, value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let index = |value: &Value| -> Result<Option<i64>, Error> {
        if value.is_none() {
            Ok(None)
        } else {
            i64::try_from(value.clone()).map(Some)
        }
    };
    let (start, stop, step) = (index(start)?, index(stop)?, index(step)?.unwrap_or(1));
    if step == 0 {
        return Err(invalid("slice step cannot be zero"));
    }
    let select = |len: usize| -> Vec<usize> {
        let len = len as i64;
        let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let clamp = |bound: i64| if bound < 0 { (bound + len).max(low) } else { bound.min(high) };
        let start = start.map_or(if step > 0 { low } else { high }, clamp);
        let stop = stop.map_or(if step > 0 { high } else { low }, clamp);
        let mut list = Vec::new();
        let mut at = start;
        while (step > 0 && at < stop) || (step < 0 && at > stop) {
            list.push(at as usize);
            at = at.saturating_add(step);
        }
        list
    };
    if let Some(text) = value.as_str() {
        state.consume_fuel(text.len() as u64 / 16)?;
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(select(chars.len()).into_iter().map(|i| chars[i]).collect::<String>()));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {}
        ValueKind::Undefined => return Err(Error::new(ErrorKind::UndefinedError, "a slice of it")),
        _ => return Ok(Value::UNDEFINED), // as in jinja2, for which it is an item that does not exist
    }
    state.consume_fuel(value.len().unwrap_or(0) as u64 / 2)?;
    let items: Vec<Value> = value.try_iter()?.collect();
    let list: Vec<Value> = select(items.len()).into_iter().map(|i| items[i].clone()).collect();
    Ok(if value.is_tuple() { Value::from(Tuple::from(list)) } else { Value::from(list) })
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| invalid(format!("{} has no length", value.kind())))
}

fn escape(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

// --- JSON ---------------------------------------------------------------------------------------------------------

/// transformers' tojson, which is json.dumps with ensure_ascii=False.
fn tojson(state: &mut State, value: &Value, args: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if args.len() > names.len() {
        return Err(invalid("tojson takes at most four arguments"));
    }
    let option = |at: usize| -> Result<Value, Error> {
        match args.get(at) {
            Some(value) => Ok(value.clone()),
            None => Ok(options.get::<Option<Value>>(names[at])?.unwrap_or(Value::from(()))),
        }
    };
    let indent = option(1)?;
    let separators = option(2)?;
    let mut json = Json {
        ascii: option(0)?.is_true(),
        sorted: option(3)?.is_true(),
        indent: match indent.as_str() {
            Some(text) => Some(text.to_string()),
            None if indent.is_none() => None,
            None => Some(" ".repeat((i64::try_from(indent)?.max(0) as usize).min(MAX_INDENT))),
        },
        comma: ", ".to_string(),
        colon: ": ".to_string(),
        out: String::new(),
    };
    options.assert_all_used()?;
    if json.indent.is_some() {
        json.comma = ",".to_string();
    }
    if !separators.is_none() {
        let (comma, colon) = (separators.get_item_by_index(0)?, separators.get_item_by_index(1)?);
        (json.comma, json.colon) = (comma.to_string(), colon.to_string());
    }
    json.write(state, value, 0)?;
    Ok(Value::from(json.out))
}

struct Json {
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
    out: String,
}

impl Json {
    fn write(&mut self, state: &mut State, value: &Value, level: usize) -> Result<(), Error> {
        if level > MAX_LEVELS {
            return Err(invalid(format!("tojson: more than {MAX_LEVELS} levels")));
        }
        let gap = self.comma.len() + self.colon.len() + level * self.indent.as_ref().map_or(0, String::len);
        state.consume_fuel(1 + gap as u64 / 64)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&match value.to_string().as_str() {
                "inf" => "Infinity".to_string(),
                "-inf" => "-Infinity".to_string(),
                text => text.to_string(),
            }),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                state.consume_fuel(text.len() as u64 / 64)?;
                self.quote(text);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.separate(&mut empty, level + 1);
                    self.write(state, &item, level + 1)?;
                }
                self.close(empty, level, ']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.out.push('{');
                let mut empty = true;
                for key in keys {
                    self.separate(&mut empty, level + 1);
                    let text = match key.kind() {
                        ValueKind::String | ValueKind::Number => key.to_string(),
                        ValueKind::Bool => key.to_string().to_lowercase(),
                        ValueKind::None => "null".to_string(),
                        kind => return Err(invalid(format!("tojson: a key of type {kind}"))),
                    };
                    self.quote(&text);
                    self.out.push_str(&self.colon);
                    self.write(state, &value.get_item(&key)?, level + 1)?;
                }
                self.close(empty, level, '}');
            }
            kind => return Err(invalid(format!("tojson: {kind} is not JSON"))),
        }
        Ok(())
    }

    fn separate(&mut self, first: &mut bool, level: usize) {
        if !*first {
            self.out.push_str(&self.comma);
        }
        *first = false;
        self.new_line(level);
    }

    fn close(&mut self, empty: bool, level: usize, mark: char) {
        if !empty {
            self.new_line(level);
        }
        self.out.push(mark);
    }

    fn new_line(&mut self, level: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(level));
        }
    }

    fn quote(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ascii && (c as u32) > 0x7e => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

// --- time ---------------------------------------------------------------------------------------------------------

/// The clock of strftime_now stands at midnight, 26 July 2024, a Friday: the same run has the same prompts on every day.
/// A code that C's strftime does not know stays as it is.
fn strftime(format: &str) -> Result<String, Error> {
    if format.len() > MAX_TIME_FORMAT {
        return Err(invalid(format!("strftime_now: a format of more than {MAX_TIME_FORMAT} bytes")));
    }
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let flag = chars.next_if(|c| matches!(c, '-' | '_' | '0' | '^' | '#'));
        let Some(code) = chars.next() else {
            out.push('%');
            out.extend(flag);
            break;
        };
        // A number with its width, or a text.
        let (text, width, fill) = match code {
            'd' => ("26", 2, '0'),
            'e' => ("26", 2, ' '),
            'm' => ("7", 2, '0'),
            'y' => ("24", 2, '0'),
            'Y' | 'G' => ("2024", 4, '0'),
            'C' => ("20", 2, '0'),
            'g' => ("24", 2, '0'),
            'H' | 'M' | 'S' => ("0", 2, '0'),
            'k' => ("0", 2, ' '),
            'I' => ("12", 2, '0'),
            'l' => ("12", 2, ' '),
            'j' => ("208", 3, '0'),
            'U' | 'W' => (if code == 'U' { "29" } else { "30" }, 2, '0'),
            'V' => ("30", 2, '0'),
            'u' | 'w' => ("5", 1, '0'),
            'f' => ("000000", 6, '0'),
            'B' => ("July", 0, ' '),
            'b' | 'h' => ("Jul", 0, ' '),
            'A' => ("Friday", 0, ' '),
            'a' => ("Fri", 0, ' '),
            'p' => ("AM", 0, ' '),
            'P' => ("am", 0, ' '),
            'F' => ("2024-07-26", 0, ' '),
            'D' | 'x' => ("07/26/24", 0, ' '),
            'T' | 'X' => ("00:00:00", 0, ' '),
            'R' => ("00:00", 0, ' '),
            'r' => ("12:00:00 AM", 0, ' '),
            'c' => ("Fri Jul 26 00:00:00 2024", 0, ' '),
            'n' => ("\n", 0, ' '),
            't' => ("\t", 0, ' '),
            'z' | 'Z' => ("", 0, ' '),
            '%' => ("%", 0, ' '),
            other => {
                out.push('%');
                out.extend(flag);
                out.push(other);
                continue;
            }
        };
        let (width, fill) = match flag {
            Some('-') => (0, fill),
            Some('_') => (width, ' '),
            Some('0') => (width, '0'),
            _ => (width, fill),
        };
        let text = if flag == Some('^') { text.to_uppercase() } else { text.to_string() };
        out.push_str(&pad(&text, width, fill, 1)?);
    }
    Ok(out)
}

// --- methods ------------------------------------------------------------------------------------------------------

fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => text_method(state, value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Map => map_method(value, name, args)?,
        ValueKind::Seq | ValueKind::Iterable => list_method(state, value, name, args)?,
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// The methods of str that pycompat lacks or has without Python's optional arguments. None means another method.
fn text_method(state: &mut State, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let none = |args: &[Value]| from_args::<()>(args);
    let cased = |c: char| c.is_uppercase() || c.is_lowercase();
    let result = match name {
        "casefold" => {
            none(args)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "swapcase" => {
            none(args)?;
            let swap = |c: char| {
                if c.is_uppercase() {
                    c.to_lowercase().collect::<String>()
                } else {
                    c.to_uppercase().collect()
                }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "title" => {
            none(args)?;
            let mut inside = false;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                if inside {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
                inside = cased(c);
            }
            Value::from(out)
        }
        "isdecimal" => {
            none(args)?;
            Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
        }
        "istitle" => {
            none(args)?;
            let (mut before, mut any, mut good) = (false, false, true);
            for c in text.chars() {
                good &= if c.is_uppercase() { !before } else { !c.is_lowercase() || before };
                before = cased(c);
                any |= before;
            }
            Value::from(any && good)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let mut fill = fill.unwrap_or(" ").chars();
            let (Some(fill), None) = (fill.next(), fill.next()) else {
                return Err(invalid("the fill character must be exactly one character long"));
            };
            let side = match name {
                "ljust" => 0,
                "rjust" => 1,
                _ => 2,
            };
            Value::from(pad(text, width.max(0) as usize, fill, side)?)
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let sign = text.len() - text.trim_start_matches(['+', '-']).len();
            let sign = &text[..sign.min(1)];
            let width = (width.max(0) as usize).saturating_sub(sign.len());
            Value::from(format!("{sign}{}", pad(&text[sign.len()..], width, '0', 1)?))
        }
        "split" | "rsplit" => {
            state.consume_fuel(text.len() as u64 / 8)?;
            let (separator, most, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = match separator {
                Some(value) => Some(value),
                None => options.get::<Option<Value>>("sep")?,
            };
            let most = match most {
                Some(n) => Some(n),
                None => options.get::<Option<i64>>("maxsplit")?,
            };
            options.assert_all_used()?;
            let separator = separator.filter(|value| !value.is_none());
            let separator = match &separator {
                Some(value) => Some(value.as_str().ok_or_else(|| invalid("the separator is no text"))?),
                None => None,
            };
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            Value::from(split(text, separator, most, name == "rsplit")?)
        }
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" if args.len() > 1 => {
            let (what, start, stop): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            let chars: Vec<char> = text.chars().collect();
            let bound =
                |at: i64| (if at < 0 { (at + chars.len() as i64).max(0) } else { at } as usize).min(chars.len());
            let start = bound(start.unwrap_or(0));
            let stop = bound(stop.unwrap_or(i64::MAX)).max(start);
            let part: String = chars[start..stop].iter().collect();
            let found = method(state, &Value::from(part), name, &[what])?;
            match found.as_i64() {
                Some(at) if at >= 0 && name != "count" && found.is_integer() => Value::from(at + start as i64),
                _ => found,
            }
        }
        "index" | "rindex" => {
            let other = if name == "index" { "find" } else { "rfind" };
            let at = pycompat::unknown_method_callback(state, &Value::from(text), other, args)?;
            if at.as_i64() == Some(-1) {
                return Err(invalid("substring not found"));
            }
            at
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Value::from(if what.is_empty() { text.chars().count() + 1 } else { text.matches(what).count() })
        }
        "splitlines" => {
            state.consume_fuel(text.len() as u64 / 8)?;
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(options.get::<Option<bool>>("keepends")?).unwrap_or(false);
            options.assert_all_used()?;
            Value::from(split_lines(text, keep))
        }
        "format" => {
            check_widths(text)?;
            return Ok(None);
        }
        "expandtabs" => return Err(invalid("str.expandtabs is not supported")),
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn map_method(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            from_args::<()>(args)?;
            Ok(Some(value.clone()))
        }
        "update" | "pop" | "popitem" | "setdefault" | "clear" => Err(sealed("dict", name)),
        _ => Ok(None),
    }
}

fn list_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            from_args::<()>(args)?;
            Ok(Some(value.clone()))
        }
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            state.consume_fuel(value.len().unwrap_or(0) as u64)?;
            match value.try_iter()?.position(|item| item == *what) {
                Some(at) => Ok(Some(Value::from(at))),
                None => Err(invalid("list.index: the value is not in the list")),
            }
        }
        "append" | "extend" | "insert" | "pop" | "remove" | "reverse" | "sort" | "clear" => Err(sealed("list", name)),
        _ => Ok(None),
    }
}

/// transformers runs templates in a sandbox that allows no changes.
fn sealed(kind: &str, name: &str) -> Error {
    invalid(format!("{kind}.{name} changes its object, which a chat template may not"))
}

/// side: 0 pads on the right, 1 on the left, 2 on both as Python's center does.
fn pad(text: &str, width: usize, fill: char, side: u8) -> Result<String, Error> {
    if width > MAX_WIDTH {
        return Err(invalid(format!("a width of {width} is over the limit of {MAX_WIDTH}")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let left = match side {
        0 => 0,
        1 => missing,
        _ => missing / 2 + (missing & width & 1),
    };
    let run = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    Ok(format!("{}{text}{}", run(left), run(missing - left)))
}

fn split(text: &str, separator: Option<&str>, most: usize, from_right: bool) -> Result<Vec<Value>, Error> {
    let parts = most.saturating_add(1);
    let mut list: Vec<&str> = match separator {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) if from_right => text.rsplitn(parts, separator).collect(),
        Some(separator) => text.splitn(parts, separator).collect(),
        None => {
            let mut list = Vec::new();
            let mut rest = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
            while !rest.is_empty() {
                let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
                let Some(at) = cut.filter(|_| list.len() < most) else {
                    list.push(rest);
                    break;
                };
                if from_right {
                    let width = rest[at..].chars().next().map_or(0, char::len_utf8);
                    list.push(&rest[at + width..]);
                    rest = rest[..at].trim_end_matches(is_space);
                } else {
                    list.push(&rest[..at]);
                    rest = rest[at..].trim_start_matches(is_space);
                }
            }
            list
        }
    };
    if from_right {
        list.reverse();
    }
    Ok(list.into_iter().map(Value::from).collect())
}

/// Python's str.isspace, which also knows the separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn split_lines(text: &str, keep: bool) -> Vec<Value> {
    let mut list = Vec::new();
    let mut rest = text;
    let breaks = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    while let Some(at) = rest.find(breaks) {
        let width =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        list.push(Value::from(&rest[..if keep { at + width } else { at }]));
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        list.push(Value::from(rest));
    }
    list
}
