//! Tests: which shapes templates are found to support, how a conversation is checked against that, and how
//! two versions differ.

use super::examples::say;
use super::*;
use crate::text::template::{ChatTemplate, FUEL, Program};

fn tried(text: &str) -> Result<(Wants, Abilities), Stop> {
    let special = vec![("bos_token".to_owned(), "<s>".to_owned())];
    let program = Program { text: text.into(), with_tools: None, special, fuel: FUEL };
    let template = ChatTemplate::compile(&program)?;
    probe(text, &mut |jobs| jobs.iter().map(|job| template.render(job)).collect())
}

const PLAIN: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
/// Like Gemma's: no system message, turns alternate.
const STRICT: &str = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}";
const TOOLS: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}\n{% endfor %}";

#[test]
fn shapes_are_taken_left_out_refused_or_failed_on() {
    let (wants, abilities) = tried(PLAIN).unwrap();
    assert_eq!(wants, Wants::default());
    assert_eq!(*abilities.of(Shape::SystemLater), Outcome::Taken);
    assert_eq!(*abilities.of(Shape::ToolsOffered), Outcome::LeftOut);
    assert!(abilities.hides_tools());
    let (_, abilities) = tried(STRICT).unwrap();
    let refused = |shape| matches!(abilities.of(shape), Outcome::Refused(_));
    assert!(
        refused(Shape::SystemFirst) && refused(Shape::Developer) && refused(Shape::UsersInARow)
    );
    assert!(refused(Shape::AssistantFirst) && !refused(Shape::Turns));
    let (_, abilities) = tried("{{ messages[1].content.strip() }}").unwrap();
    assert!(matches!(abilities.of(Shape::User), Outcome::Failed(_)));
}

#[test]
fn the_form_that_a_template_wants_is_found() {
    let (_, abilities) = tried(TOOLS).unwrap();
    assert!(!abilities.hides_tools());
    let parts = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endfor %}";
    let (wants, abilities) = tried(parts).unwrap();
    assert!(wants.parts && *abilities.of(Shape::Turns) == Outcome::Taken);
    let short = TOOLS.replace("{% for c in m.tool_calls %}", "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}");
    assert!(tried(&short).unwrap().0.short_ids);
    let text = TOOLS
        .replace("{{ c.function.arguments | tojson }}", "{{ '(' + c.function.arguments + ')' }}");
    let (wants, abilities) = tried(&text).unwrap();
    assert!(wants.text_arguments && *abilities.of(Shape::ToolCall) == Outcome::Taken);
    let one = TOOLS.replace(
        "{{ tools | tojson }}",
        "{{ tools | tojson }}{{ '' + tools[0].function.parameters.properties.topic.type }}",
    );
    let (wants, abilities) = tried(&one).unwrap();
    assert!(wants.one_type && *abilities.of(Shape::TypeLists) == Outcome::Taken);
    assert!(
        tried(&PLAIN.replace("m.role", "'developer' if m.role == 'developer' else m.role"))
            .unwrap()
            .0
            .developer
    );
}

#[test]
fn running_into_a_bound_is_not_a_shape() {
    let text = "{% if messages | length > 2 %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}x";
    assert!(matches!(tried(text), Err(Stop::Exhausted(_))));
}

#[test]
fn every_example_has_the_shape_that_it_is_of() {
    for shape in Shape::ALL {
        let example = Example::of(shape);
        let found = shapes_of(&example.chat());
        if shape != Shape::User {
            assert!(found.iter().any(|(_, s)| *s == shape), "{shape:?}: {found:?}");
        }
    }
}

#[test]
fn an_obstacle_is_named_by_message_and_shape() {
    let (_, abilities) = tried(STRICT).unwrap();
    let obstacle = |messages: &[Value]| {
        let chat = Chat { messages, ..Chat::default() };
        abilities.obstacle(&chat).map(|(index, shape, _)| (index, shape))
    };
    let (user, assistant, system) = (say("user", "a"), say("assistant", "b"), say("system", "c"));
    let of = |list: &[&Value]| list.iter().map(|m| (*m).clone()).collect::<Vec<_>>();
    assert_eq!(obstacle(&of(&[&user])), None);
    assert_eq!(obstacle(&of(&[&system, &user])), Some((Some(0), Shape::SystemFirst)));
    let late = of(&[&user, &assistant, &user, &user]);
    assert_eq!(obstacle(&late), Some((Some(3), Shape::UsersInARow)));
    assert_eq!(obstacle(&of(&[&assistant, &user])), Some((Some(0), Shape::AssistantFirst)));
}

#[test]
fn two_versions_are_compared_in_plain_words() {
    let ((_, plain), (_, strict), (_, tools)) =
        (tried(PLAIN).unwrap(), tried(STRICT).unwrap(), tried(TOOLS).unwrap());
    assert!(plain.differences(&plain).is_empty());
    let lost = plain.differences(&strict);
    let system = "no longer takes a system message: refuses it (System role not supported)";
    assert!(lost.iter().any(|line| line == system), "{lost:?}");
    let won = strict.differences(&plain);
    assert!(won.iter().any(|line| line == "newly takes a system message"), "{won:?}");
    assert!(tools.differences(&plain).iter().any(|line| line == "leaves out tools"));
    assert!(plain.differences(&tools).iter().any(|line| line == "no longer leaves out tools"));
    let losses = plain.losses(&strict);
    assert!(losses.iter().any(|line| line == system), "{losses:?}");
    assert!(losses.iter().all(|line| lost.contains(line)), "they are some of the differences");
    assert!(!strict.losses(&plain).iter().any(|line| line.starts_with("newly")), "a gain is none");
    let losses = tools.losses(&plain);
    assert!(losses.iter().any(|line| line == "leaves out tools"), "{losses:?}");
    assert!(losses.iter().all(|line| line.starts_with("leaves out ")), "{losses:?}");
    assert!(plain.losses(&tools).is_empty(), "{:?}", plain.losses(&tools));
}
