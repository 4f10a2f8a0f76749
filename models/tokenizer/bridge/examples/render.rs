//! Renders chat templates, for testdata/compare_templates.py. In comes JSON, a list of [template, [context, ...]]; out comes a
//! list of a list of [status, text].

use std::io::Read;

#[path = "../src/python.rs"]
mod python;
#[path = "../src/template.rs"]
mod template;

use template::{Failure, Template};

fn main() {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).expect("standard input is UTF-8");
    let cases: Vec<(String, Vec<serde_json::Value>)> = serde_json::from_str(&input).expect("standard input is JSON");
    let render = |template: &Result<Template, String>, context: &serde_json::Value| match template {
        Err(error) => ("error", error.clone()),
        Ok(template) => match template.render(context.to_string().as_bytes()) {
            Ok(text) => ("ok", text),
            Err(Failure::Refused(text)) => ("refused", text),
            Err(Failure::Error(text)) => ("error", text),
        },
    };
    let mut all = Vec::new();
    for (source, contexts) in cases {
        let template = Template::compile(&source);
        all.push(contexts.iter().map(|context| render(&template, context)).collect::<Vec<_>>());
    }
    println!("{}", serde_json::json!(all));
}
