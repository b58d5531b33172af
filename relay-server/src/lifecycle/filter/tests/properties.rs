use proptest::prelude::*;
use serde_json::{Value, json};

use super::{parsed, unmet, with_body};
use crate::lifecycle::filter::{Filter, Shape, Subject};

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..4_i64).prop_map(Value::from),
        Just(json!(1.5)),
        "[ab]{0,2}".prop_map(Value::from),
    ]
}

/// A body, from a small world so that filters often match.
fn document() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn comparison() -> impl Strategy<Value = Value> {
    let ordered = prop_oneof![
        (-3..4_i64).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    let order = prop::sample::select(vec!["$gt", "$gte", "$lt", "$lte"]);
    let part = prop::sample::select(vec!["$startsWith", "$endsWith", "$contains"]);
    let list = prop::sample::select(vec!["$in", "$nin"]);
    prop_oneof![
        scalar(),
        scalar().prop_map(|value| json!({ "$eq": value })),
        scalar().prop_map(|value| json!({ "$ne": value })),
        any::<bool>().prop_map(|value| json!({ "$exist": value })),
        (order, ordered).prop_map(|(operator, value)| json!({ operator: value })),
        (part, "[ab]{0,2}").prop_map(|(operator, value)| json!({ operator: value })),
        (list, prop::collection::vec(scalar(), 1..3))
            .prop_map(|(operator, values)| json!({ operator: values })),
    ]
}

/// A condition on a body.
fn condition() -> impl Strategy<Value = Value> {
    comparison().prop_recursive(4, 16, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            prop::collection::btree_map("[abc]", inner.clone(), 1..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            several
                .clone()
                .prop_map(|conditions| json!({ "$and": conditions })),
            several.prop_map(|conditions| json!({ "$or": conditions })),
            inner
                .clone()
                .prop_map(|condition| json!({ "$not": condition })),
            (inner.clone(), inner).prop_map(|(one, two)| merged(one, &two)),
        ]
    })
}

/// Two conditions in one object, where that is possible.
fn merged(one: Value, two: &Value) -> Value {
    match (one, two) {
        (Value::Object(mut one), Value::Object(two)) => {
            one.extend(two.clone());
            Value::Object(one)
        }
        (one, _) => one,
    }
}

fn holds(condition: &Value, body: &Value) -> bool {
    let body = body.to_string();
    with_body(body.as_bytes(), |subject| {
        unmet(&json!({ "body": condition }), subject).is_empty()
    })
}

/// The rules of docs/filters.md in the plainest words, on whole documents.
fn by_the_book(condition: &Value, value: Option<&Value>) -> bool {
    let Value::Object(entries) = condition else {
        return by_the_book(&json!({ "$eq": condition }), value);
    };
    let opposite =
        |operator: &str, operand: &Value| !by_the_book(&json!({ operator: operand }), value);
    let whole = entries.iter().all(|(key, operand)| match key.as_str() {
        "$exist" => operand == &json!(value.is_some()),
        "$ne" => opposite("$eq", operand),
        "$nin" => opposite("$in", operand),
        "$not" => !by_the_book(operand, value),
        "$and" => operand
            .as_array()
            .unwrap()
            .iter()
            .all(|it| by_the_book(it, value)),
        "$or" => operand
            .as_array()
            .unwrap()
            .iter()
            .any(|it| by_the_book(it, value)),
        _ => true,
    });
    let own: Vec<_> = entries
        .iter()
        .filter(|(key, _)| {
            !["$exist", "$ne", "$nin", "$not", "$and", "$or"].contains(&key.as_str())
        })
        .collect();
    whole && (own.is_empty() || one_meets(&own, value))
}

fn one_meets(own: &[(&String, &Value)], value: Option<&Value>) -> bool {
    if let Some(Value::Array(elements)) = value {
        return elements.iter().any(|element| one_meets(own, Some(element)));
    }
    let text = value.and_then(Value::as_str);
    let order = |operand: &Value| match (value?, operand) {
        (Value::Number(one), Value::Number(two)) => one.as_f64()?.partial_cmp(&two.as_f64()?),
        (Value::String(one), Value::String(two)) => Some(one.cmp(two)),
        _ => None,
    };
    own.iter().all(|(key, operand)| {
        let part = operand.as_str().unwrap_or_default();
        match key.as_str() {
            "$eq" => {
                value.is_some_and(|value| value == *operand)
                    || order(operand).is_some_and(|it| it.is_eq())
            }
            "$in" => operand
                .as_array()
                .unwrap()
                .iter()
                .any(|it| value == Some(it)),
            "$gt" => order(operand).is_some_and(|it| it.is_gt()),
            "$gte" => order(operand).is_some_and(|it| it.is_ge()),
            "$lt" => order(operand).is_some_and(|it| it.is_lt()),
            "$lte" => order(operand).is_some_and(|it| it.is_le()),
            "$startsWith" => text.is_some_and(|text| text.starts_with(part)),
            "$endsWith" => text.is_some_and(|text| text.ends_with(part)),
            "$contains" => text.is_some_and(|text| text.contains(part)),
            name => by_the_book(operand, value.and_then(|value| value.get(name))),
        }
    })
}

proptest! {
    #[test]
    fn filters_do_what_the_book_says(condition in condition(), body in document()) {
        prop_assert_eq!(holds(&condition, &body), by_the_book(&condition, Some(&body)));
    }

    #[test]
    fn de_morgan(one in condition(), two in condition(), body in document()) {
        let not = |condition: &Value| json!({ "$not": condition });
        let neither = holds(&not(&json!({ "$or": [one, two] })), &body);
        prop_assert_eq!(neither, holds(&json!({ "$and": [not(&one), not(&two)] }), &body));
        let not_both = holds(&not(&json!({ "$and": [one, two] })), &body);
        prop_assert_eq!(not_both, holds(&json!({ "$or": [not(&one), not(&two)] }), &body));
        prop_assert_eq!(holds(&not(&not(&one)), &body), holds(&one, &body));
        prop_assert_ne!(holds(&not(&one), &body), holds(&one, &body));
    }

    #[test]
    fn order_does_not_matter(
        conditions in prop::collection::vec(condition(), 1..5),
        body in document(),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut rotated = conditions.clone();
        rotated.rotate_left(seed.index(conditions.len()));
        for operator in ["$and", "$or"] {
            let forward = holds(&json!({ operator: conditions }), &body);
            prop_assert_eq!(forward, holds(&json!({ operator: rotated }), &body));
            let backward: Vec<_> = conditions.iter().rev().collect();
            prop_assert_eq!(forward, holds(&json!({ operator: backward }), &body));
        }
    }

    #[test]
    fn other_filters_of_the_source_change_nothing(
        one in condition(), others in prop::collection::vec(condition(), 0..4), body in document(),
    ) {
        let alone = holds(&one, &body);
        let filters: Vec<_> = others.iter().chain([&one]).map(|it| parsed(&json!({ "body": it }))).collect();
        let shape = Shape::of(&filters);
        let body = body.to_string();
        with_body(body.as_bytes(), |subject| {
            let (picked, _) = shape.pick(subject);
            assert_eq!(filters.last().unwrap().test(&picked).is_ok(), alone);
        });
    }

    #[test]
    fn any_document_and_any_body_are_survived(
        filter in anything(), body in prop::collection::vec(any::<u8>(), 0..200), json in anything(),
        target in ".{0,40}",
    ) {
        match Filter::parse(&filter) {
            Err(error) => prop_assert!(!error.faults.is_empty()),
            Ok(filter) => {
                let shape = Shape::of([&filter]);
                let text = json.to_string();
                for body in [&body[..], text.as_bytes()] {
                    with_body(body, |subject| {
                        let (picked, _) = shape.pick(&Subject { target: &target, ..*subject });
                        let unmet = filter.test(&picked);
                        assert!(unmet.is_ok_and(|()| true) || unmet.is_err_and(|place| {
                            filter.document().pointer(place).is_some()
                        }));
                    });
                }
            }
        }
    }
}

/// Documents that look like filters more often than not.
fn anything() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "$eq",
            "$ne",
            "$in",
            "$nin",
            "$gt",
            "$gte",
            "$lt",
            "$lte",
            "$exist",
            "$startsWith",
            "$endsWith",
            "$contains",
            "$and",
            "$or",
            "$not",
            "body",
            "headers",
            "query",
            "path",
            "type",
            "method",
            "source",
            "$$a",
            "$",
            "",
            "a/b~",
        ])
        .prop_map(str::to_owned),
        ".{0,4}",
    ];
    let leaf = prop_oneof![
        scalar(),
        any::<f64>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}
