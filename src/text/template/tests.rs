//! Tests: how a template's source is changed, and which features of Python's Jinja have to be added to the
//! engine.

use super::*;

#[test]
fn generation_tags_are_replaced_and_nothing_else() {
    let text = "{%- generation -%}a{%+ endgeneration %}{% if add_generation_prompt %}\n{% generation%}{% endif %}";
    let want =
        "{%- if true -%}a{%+ endif %}{% if add_generation_prompt %}\n{% if true%}{% endif %}";
    assert_eq!(without_generation_tags(text), want);
    assert_eq!(without_generation_tags("a {% generation"), "a {% generation");
}

fn render(text: &str, messages: &[serde_json::Value]) -> Result<String, Stop> {
    let program = Program { text: text.into(), with_tools: None, special: Vec::new(), fuel: FUEL };
    let job = Job { messages: messages.to_vec(), ..Job::default() };
    ChatTemplate::compile(&program)?.render(&job)
}

#[test]
fn nothing_is_not_iterable_and_everything_that_python_walks_is() {
    let text = "{{ tools is iterable }} {{ missing is iterable }} {{ [] is iterable }} {{ 'x' is iterable }} {{ {} is iterable }} {{ 7 is iterable }}";
    // As in jinja2 3.1.6: an undefined value can be iterated, and is empty.
    assert_eq!(render(text, &[]).unwrap(), "False True True True True False");
}
