//! The C interface of bridge.h. A panic becomes an error of its call and does not end the process.

mod python;
mod template;
mod tokens;

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::slice;
use std::sync::Once;

use template::{Failure, Template};
use tokens::Tokenizer;

/// The result of a call, bytes or ids. The caller returns it to ldalign_free.
#[repr(C)]
pub struct Buffer {
    data: *mut u8,
    len: usize, // in bytes
    room: usize,
    align: usize,
}

impl Buffer {
    fn of<T: Copy>(values: Vec<T>) -> Buffer {
        let mut values = std::mem::ManuallyDrop::new(values);
        let size = std::mem::size_of::<T>();
        Buffer {
            // Rust's address of nothing is a small number, which Go takes for a corrupt pointer when it moves a stack.
            data: if values.capacity() == 0 { std::ptr::null_mut() } else { values.as_mut_ptr().cast() },
            len: values.len() * size,
            room: values.capacity() * size,
            align: std::mem::align_of::<T>(),
        }
    }
}

const OK: i32 = 0;
const ERROR: i32 = 1;
const REFUSED: i32 = 2;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a call and writes its result, or its error as UTF-8, to out.
fn call<T: Copy>(out: *mut Buffer, work: impl FnOnce() -> Result<Vec<T>, (i32, String)>) -> i32 {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        panic::set_hook(Box::new(|info| {
            PANIC.with_borrow_mut(|text| *text = format!("{} ({})", message(info.payload()), place(info)));
        }));
    });
    let (status, buffer) = match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(values)) => (OK, Buffer::of(values)),
        Ok(Err((status, text))) => (status, Buffer::of(text.into_bytes())),
        Err(_) => {
            let text = format!("the library failed: {}", PANIC.with_borrow(String::clone));
            (ERROR, Buffer::of(text.into_bytes()))
        }
    };
    // SAFETY: bridge.h requires that out can be written to.
    unsafe { out.write(buffer) };
    status
}

fn message(payload: &dyn Any) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text.to_string(),
        (_, Some(text)) => text.clone(),
        _ => "panic".to_string(),
    }
}

fn place(info: &panic::PanicHookInfo) -> String {
    info.location().map_or_else(String::new, |at| {
        let file = at.file().rsplit('/').next().unwrap_or_default();
        format!("{file}:{}", at.line())
    })
}

fn error(text: String) -> (i32, String) {
    (ERROR, text)
}

/// # Safety
/// data points to len values, or len is 0.
unsafe fn input<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        &[]
    } else {
        slice::from_raw_parts(data, len)
    }
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_tokenizer_new(
    file: *const u8,
    len: usize,
    tokenizer: *mut *mut Tokenizer,
    out: *mut Buffer,
) -> i32 {
    call(out, || {
        let made = Tokenizer::read(input(file, len)).map_err(error)?;
        let description = made.describe();
        tokenizer.write(Box::into_raw(Box::new(made)));
        Ok(description.into_bytes())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_tokenizer_free(tokenizer: *mut Tokenizer, out: *mut Buffer) -> i32 {
    call(out, || {
        drop(Box::from_raw(tokenizer));
        Ok(Vec::<u8>::new())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_tokenizer_id(
    tokenizer: *const Tokenizer,
    token: *const u8,
    len: usize,
    out: *mut Buffer,
) -> i32 {
    call(out, || {
        let token = std::str::from_utf8(input(token, len)).map_err(|e| error(e.to_string()))?;
        Ok((*tokenizer).id(token).into_iter().collect::<Vec<u32>>())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: *const u8,
    len: usize,
    special: bool,
    out: *mut Buffer,
) -> i32 {
    call(out, || (*tokenizer).encode(&String::from_utf8_lossy(input(text, len)), special).map_err(error))
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_tokenizer_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    len: usize,
    skip_special: bool,
    out: *mut Buffer,
) -> i32 {
    call(out, || (*tokenizer).decode(input(ids, len), skip_special).map(String::into_bytes).map_err(error))
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_template_new(
    source: *const u8,
    len: usize,
    template: *mut *mut Template,
    out: *mut Buffer,
) -> i32 {
    call(out, || {
        let made = Template::compile(&String::from_utf8_lossy(input(source, len))).map_err(error)?;
        template.write(Box::into_raw(Box::new(made)));
        Ok(Vec::<u8>::new())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_template_free(template: *mut Template, out: *mut Buffer) -> i32 {
    call(out, || {
        drop(Box::from_raw(template));
        Ok(Vec::<u8>::new())
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_template_render(
    template: *const Template,
    context: *const u8,
    len: usize,
    out: *mut Buffer,
) -> i32 {
    call(out, || match (*template).render(input(context, len)) {
        Ok(text) => Ok(text.into_bytes()),
        Err(Failure::Refused(text)) => Err((REFUSED, text)),
        Err(Failure::Error(text)) => Err(error(text)),
    })
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn ldalign_free(buffer: Buffer) {
    if buffer.room > 0 {
        let layout = std::alloc::Layout::from_size_align_unchecked(buffer.room, buffer.align);
        std::alloc::dealloc(buffer.data, layout);
    }
}
