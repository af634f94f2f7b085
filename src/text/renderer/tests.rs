//! Tests: goldens made by Python's transformers, who is at fault for a failure, and limits on templates.

use super::*;
use crate::text::conversation::{MAX_INPUT, MAX_MESSAGES};
use serde_json::Value as Json;
use std::time::{Duration, SystemTime};

fn goldens() -> Json {
    serde_json::from_str(include_str!("../../../tests/fixtures/text/template_goldens.json"))
        .unwrap()
}

fn fixture(name: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/text/templates");
    std::fs::read_to_string(format!("{root}/{name}.jinja")).unwrap()
}

fn source(text: &str) -> TemplateSource {
    TemplateSource {
        path: PathBuf::from("model/chat_template.jinja"),
        text: text.into(),
        with_tools: None,
    }
}

fn compile(text: &str) -> Result<Renderer, TextError> {
    let special = [("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())];
    Renderer::new(source(text), &special, Templates::Here, None)
}

fn rendered(template: &Renderer, chat: &Chat<'_>) -> Result<String, TextError> {
    template.render(chat, template.canonical(chat)?)
}

fn user(content: Json) -> [Json; 1] {
    [json!({"role": "user", "content": content})]
}

fn render(text: &str, messages: &[Json]) -> Result<String, TextError> {
    rendered(&compile(text)?, &Chat { messages, ..Chat::default() })
}

#[test]
fn renders_byte_for_byte_as_transformers() {
    let goldens = goldens();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(goldens["now"].as_u64().unwrap());
    for (i, case) in goldens["cases"].as_array().unwrap().iter().enumerate() {
        let name = case["template"].as_str().unwrap();
        let chat = Chat {
            messages: case["messages"].as_array().unwrap(),
            tools: case.get("tools"),
            ending: match case.get("add_generation_prompt") {
                Some(Json::Bool(false)) => Ending::Closed,
                _ => Ending::Reply,
            },
            extra: case.get("extra").and_then(Json::as_object),
            today: Some(now),
        };
        let got = rendered(&compile(&fixture(name)).unwrap(), &chat);
        match case["expect"]["refused"].as_str() {
            Some(why) => assert!(
                matches!(&got, Err(TextError::TemplateRefused(w) | TextError::Untaken { why: w, .. }) if w == why),
                "{i} {name}: {got:?}"
            ),
            None => assert_eq!(
                got.unwrap(),
                case["expect"]["text"].as_str().unwrap(),
                "case {i}, {name}"
            ),
        }
    }
}

#[test]
fn the_variant_for_tools_is_used_with_tools_only() {
    let with_tools = Some("tools: {{ tools | length }}".into());
    let template =
        Renderer::new(TemplateSource { with_tools, ..source("plain") }, &[], Templates::Here, None)
            .unwrap();
    let (messages, some, none) = (user(json!("x")), json!([{"type": "function"}]), json!([]));
    let with = |tools| {
        rendered(&template, &Chat { messages: &messages, tools, ..Chat::default() }).unwrap()
    };
    assert_eq!(with(Some(&some)), "tools: 1");
    assert_eq!(with(Some(&none)), "plain");
    assert_eq!(with(None), "plain");
}

#[test]
fn the_developer_role_is_system_for_templates_that_do_not_know_it() {
    let messages = [json!({"role": "developer", "content": "x"})];
    assert_eq!(render("{{ messages[0].role }}", &messages).unwrap(), "system");
    let knowing = "{{ messages[0].role }}{% if messages[0].role == 'developer' %}!{% endif %}";
    assert_eq!(render(knowing, &messages).unwrap(), "developer!");
}

#[test]
fn without_a_time_templates_fall_back_to_their_own_date() {
    let rendered = render(&fixture("llama3"), &user(json!("x"))).unwrap();
    assert!(rendered.contains("Today Date: 26 Jul 2024\n"), "{rendered}");
}

#[test]
fn parts_are_joined_and_extra_variables_arrive() {
    let messages = user(json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]));
    let template = compile("{{ messages[0].content }}{{ mood }}{{ bos_token }}").unwrap();
    let extra = json!({"mood": "!", "bos_token": "<other>"});
    let chat = Chat { messages: &messages, extra: extra.as_object(), ..Chat::default() };
    assert_eq!(rendered(&template, &chat).unwrap(), "a\nb!<other>");
}

#[test]
fn a_refusal_is_the_clients_doing_even_out_of_a_macro() {
    let text = "{% macro no() %}{{ raise_exception('not like this') }}{% endmacro %}{{ no() }}";
    let error = render(text, &user(json!("x"))).unwrap_err();
    assert!(
        matches!(&error, TextError::TemplateRefused(what) if what == "not like this"),
        "{error:?}"
    );
    assert!(error.is_client_fault());
}

#[test]
fn a_failure_on_a_valid_conversation_is_the_models_doing() {
    let text =
        "line one\n{% if messages[0].content == 'x' %}\n{{ messages[0].no.such.thing }}{% endif %}";
    let error = render(text, &user(json!("x"))).unwrap_err();
    assert!(matches!(error, TextError::TemplateFailed { line: 3, .. }), "{error:?}");
    assert!(!error.is_client_fault());
}

#[test]
fn a_syntax_error_is_found_at_load_with_file_and_line() {
    let error = compile("fine\n{% if messages %}\n{% endfor %}").err().unwrap();
    assert!(matches!(error, TextError::TemplateSyntax { line: 3, .. }), "{error:?}");
    let said = error.to_string();
    assert!(
        said.contains("model/chat_template.jinja, line 3") && said.contains("remove it"),
        "{said}"
    );
    assert!(!error.is_client_fault());
}

#[test]
fn a_template_that_cannot_render_one_message_is_refused_at_load() {
    for text in [
        "{{ messages | no_such_filter }}",
        "{{ no_such_function() }}",
        "{% for x in 7 %}{% endfor %}",
    ] {
        let error = compile(text).err().unwrap();
        assert!(matches!(error, TextError::TemplateUnusable { .. }), "{text}: {error:?}");
    }
}

#[test]
fn requests_that_make_no_sense_are_the_clients_doing() {
    let template = compile("{{ messages[0].content }}").unwrap();
    let messages = user(json!("x"));
    let fine = Chat { messages: &messages, ..Chat::default() };
    let many = vec![messages[0].clone(); MAX_MESSAGES + 1];
    let large = user(json!("x".repeat(MAX_INPUT)));
    let (tools, extra) = (json!({"type": "function"}), json!({"messages": []}));
    let cases = [
        (Chat { messages: &[], ..fine }, "must not be empty"),
        (Chat { messages: &many, ..fine }, "8193 messages"),
        (Chat { messages: &large, ..fine }, "8 MiB"),
        (Chat { tools: Some(&tools), ..fine }, "tools must be a list, this is an object"),
        (Chat { extra: extra.as_object(), ..fine }, "may not set messages"),
    ];
    for (chat, what) in cases {
        let error = rendered(&template, &chat).unwrap_err();
        assert!(error.is_client_fault() && error.to_string().contains(what), "{error}");
    }
}

/// Processor time of this thread: waiting for a processor does not count.
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // In user mode and in the kernel, in hundredths of a second.
    let ticks = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// Runs a hostile template on a thread with the stack size of a server worker; returns its error and the
/// time.
fn survive(text: &str) -> (TextError, Duration) {
    let guarded = format!("{{% if messages[0].content == 'go' %}}{text}{{% endif %}}");
    let run = move || {
        let template = compile(&guarded).unwrap();
        let before = computed();
        let messages = user(json!("go"));
        let result = rendered(&template, &Chat { messages: &messages, ..Chat::default() });
        let error = result.err().unwrap_or_else(|| panic!("{guarded} got through"));
        (error, computed() - before)
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap()
}

#[test]
fn hostile_templates_end_soon() {
    let bombs = [
        "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ 'some text' }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(9999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
        "{% set ns = namespace(s=[]) %}{% for i in range(900) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% for i in range(9999) %}{{ range(9999) | list | tojson }}{% endfor %}",
        "{% for i in range(9999) %}{% set x = range(9999) | list | sort | reverse | join(',') %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(9999) %}{% set x = s.replace('a', 'bb') %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set x = s.split('b') | length %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set x = s.count('ab') + s.find('c') %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set x = 'c' in s %}{% endfor %}",
        "{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set x = s == s ~ '' %}{% endfor %}",
    ];
    for bomb in bombs {
        let (error, took) = survive(bomb);
        // Half a second on an otherwise idle machine.
        assert!(took < Duration::from_secs(3), "{took:?} for {bomb}");
        assert!(!error.is_client_fault(), "{error} for {bomb}");
    }
}

#[test]
fn output_is_bounded() {
    let (error, _) =
        survive("{% set s = 'x' * 100000 %}{% for i in range(9999) %}{{ s }}{% endfor %}");
    assert!(
        matches!(&error, TextError::TemplateExhausted { what } if what.contains("32 MiB")),
        "{error:?}"
    );
}

#[test]
fn the_largest_conversation_allowed_fits_every_bound() {
    let message = json!({"role": "user", "content": "x".repeat(MAX_INPUT / MAX_MESSAGES - 60)});
    let messages = vec![message; MAX_MESSAGES];
    for name in ["chatml", "qwen", "gemma", "llama3"] {
        let template = compile(&fixture(name)).unwrap();
        let text = rendered(&template, &Chat { messages: &messages, ..Chat::default() }).unwrap();
        assert!(text.len() > MAX_INPUT / 2, "{name}");
    }
}

#[test]
fn a_shape_that_the_template_does_not_take_is_named_and_is_the_requests() {
    let no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
    let messages =
        [json!({"role": "system", "content": "s"}), json!({"role": "user", "content": "u"})];
    let error = render(no_system, &messages).unwrap_err();
    assert!(error.is_client_fault());
    let said =
        "messages[0]: this model's chat template does not support a system message (no system)";
    assert_eq!(error.to_string(), said);
    // It supports each of these alone; the combination that it does not support is found by rendering without
    // the messages' text.
    let three = "{% for m in messages %}{{ m.content }}{% if loop.index > 6 %}{{ nothing.at.all }}{% endif %}{% endfor %}";
    let many = vec![json!({"role": "user", "content": "x"}); 9];
    let error = render(three, &many).unwrap_err();
    assert!(matches!(error, TextError::Untaken { .. }), "{error:?}");
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}}}}]);
    let typed = "{% for t in tools or [] %}{% for n, p in t.function.parameters.properties.items() %}{{ '' + p.type }}{% endfor %}{% endfor %}x";
    let messages = user(json!("x"));
    let chat = Chat { messages: &messages, tools: Some(&tools), ..Chat::default() };
    let error = rendered(&compile(typed).unwrap(), &chat).unwrap_err();
    assert!(error.to_string().contains("does not support these tools"), "{error}");
    assert!(error.is_client_fault());
}

#[test]
fn a_reply_can_go_on_from_the_last_message() {
    let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let messages = [
        json!({"role": "user", "content": "u"}),
        json!({"role": "assistant", "content": "It is "}),
    ];
    let with = |ending| {
        let chat = Chat { messages: &messages, ending, ..Chat::default() };
        rendered(&compile(chatml).unwrap(), &chat).unwrap()
    };
    let begin = "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\nIt is";
    assert_eq!(with(Ending::Continue), begin);
    assert_eq!(with(Ending::Closed), format!("{begin}<|im_end|>\n"));
    assert_eq!(with(Ending::Reply), format!("{begin}<|im_end|>\n<|im_start|>assistant\n"));
}
