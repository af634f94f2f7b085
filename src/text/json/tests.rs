//! Tests: floats as Python writes them, and values that are not JSON. Formatting is tested with goldens.

use super::*;
use minijinja::{Environment, context};
use proptest::prelude::*;

fn eval(source: &str, x: Value) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.add_filter("tojson", tojson);
    environment.render_str(source, context!(x))
}

#[test]
fn floats_change_notation_where_python_does() {
    let cases = [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1e15, "1000000000000000.0"),
        (9_999_999_999_999_998.0, "9999999999999998.0"),
        (1e16, "1e+16"),
        (1.25e100, "1.25e+100"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-1.5e-10, "-1.5e-10"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "-Infinity"),
    ];
    for (x, want) in cases {
        assert_eq!(float(x), want);
    }
}

#[test]
fn what_is_not_json_is_an_error() {
    assert!(eval("{{ missing | tojson }}", Value::from(())).is_err());
    assert!(eval("{{ x | tojson(no_such_option=1) }}", Value::from(1)).is_err());
    assert!(eval("{{ x | tojson(indent='tab', separators=(1, 2)) }}", Value::from(1)).is_err());
    assert!(eval("{{ x | tojson(indent=1000000) }}", Value::from(vec![1])).is_err());
}

#[test]
fn odd_indents_and_keys_are_as_in_python() {
    let list = || Value::from(vec![1, 2]);
    assert_eq!(eval("{{ x | tojson(indent=0) }}", list()).unwrap(), "[\n1,\n2\n]");
    assert_eq!(eval("{{ x | tojson(indent='\t') }}", list()).unwrap(), "[\n\t1,\n\t2\n]");
    let keys = "{{ {2: 'a', none: 'b', true: 'c', 0.5: 'd'} | tojson }}";
    assert_eq!(eval(keys, list()).unwrap(), r#"{"2": "a", "null": "b", "true": "c", "0.5": "d"}"#);
}

proptest! {
    #[test]
    fn floats_read_back_the_same(x in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
        prop_assert_eq!(float(x).parse::<f64>().unwrap().to_bits(), x.to_bits());
    }

    #[test]
    fn strings_read_back_the_same(text in any::<String>(), ascii in any::<bool>()) {
        let json = eval(&format!("{{{{ x | tojson(ensure_ascii={ascii}) }}}}"), Value::from(text.as_str())).unwrap();
        prop_assert!(!ascii || json.is_ascii());
        prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
