mod properties;

use bytes::Bytes;
use protocol::frame::Headers;
use serde_json::{Value, json};

use super::*;

fn headers(pairs: &[(&str, &[u8])]) -> Headers {
    let pairs = pairs.iter();
    Headers(
        pairs
            .map(|(name, value)| {
                let name = Bytes::copy_from_slice(name.as_bytes());
                (name, Bytes::copy_from_slice(value))
            })
            .collect(),
    )
}

fn parsed(filter: &Value) -> Filter {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"))
}

/// The pointer of the unmet term; empty if the event passes.
fn unmet(filter: &Value, subject: &Subject<'_>) -> String {
    let filter = parsed(filter);
    let shape = Shape::of([&filter]);
    let (picked, _) = shape.pick(subject);
    filter.test(&picked).err().unwrap_or_default().to_owned()
}

fn with_body<T>(body: &[u8], look: impl FnOnce(&Subject<'_>) -> T) -> T {
    let headers = headers(&[
        ("X-GitHub-Event", b"push"),
        ("X-Tag", b"one"),
        ("x-tag", b"two"),
        ("X-Count", b"12"),
        ("X-Odd", b"a\xff"),
    ]);
    look(&Subject {
        method: "POST",
        target: "/hooks/eu?env=live&n=7&tag=a&tag=b%20c",
        headers: &headers,
        body,
        event_type: Some("order.paid"),
        source: "shop",
    })
}

const BODY: &[u8] = br#"{
    "type": "order.paid", "amount": 1250, "rate": 0.5, "paid": true, "note": null, "big": 9007199254740993,
    "customer": { "country": "CH", "$id": "c1", "tags": ["vip", "eu"] },
    "items": [ { "sku": "a", "qty": 1 }, { "sku": "b", "qty": 9, "gift": true } ],
    "nested": [ [1, 2], [3] ], "none": [], "at": "2026-11-23T10:00:00Z"
}"#;

#[track_caller]
fn check(filter: Value, expected: &str) {
    with_body(BODY, |subject| {
        assert_eq!(unmet(&filter, subject), expected, "{filter}");
    });
}

#[track_caller]
fn passes(filter: Value) {
    check(filter, "");
}

#[test]
fn every_operator_compares() {
    for (condition, meets) in [
        (json!({ "amount": 1250 }), true),
        (json!({ "amount": 1250.0 }), true),
        (json!({ "amount": "1250" }), false),
        (json!({ "big": 9_007_199_254_740_993_u64 }), true),
        (json!({ "big": 9_007_199_254_740_992_u64 }), false),
        (json!({ "type": { "$eq": "order.paid" } }), true),
        (json!({ "type": { "$ne": "order.paid" } }), false),
        (json!({ "type": { "$ne": "x" } }), true),
        (json!({ "type": { "$in": ["x", "order.paid"] } }), true),
        (json!({ "type": { "$in": ["x", 1] } }), false),
        (json!({ "type": { "$nin": ["x", "order.paid"] } }), false),
        (json!({ "type": { "$nin": ["x"] } }), true),
        (json!({ "amount": { "$gt": 1249.9 } }), true),
        (json!({ "amount": { "$gt": 1250 } }), false),
        (json!({ "amount": { "$gte": 1250 } }), true),
        (json!({ "amount": { "$lt": 1250 } }), false),
        (json!({ "amount": { "$lte": 1250, "$gt": 0 } }), true),
        (json!({ "amount": { "$gt": "1" } }), false),
        (
            json!({ "at": { "$gte": "2026-11-23", "$lt": "2026-11-24" } }),
            true,
        ),
        (json!({ "type": { "$startsWith": "order." } }), true),
        (json!({ "type": { "$startsWith": "Order." } }), false),
        (json!({ "type": { "$endsWith": ".paid" } }), true),
        (json!({ "type": { "$contains": "er.p" } }), true),
        (json!({ "amount": { "$contains": "2" } }), false),
        (json!({ "paid": true }), true),
        (json!({ "paid": "true" }), false),
        (json!({ "note": null }), true),
        (json!({ "note": { "$exist": true } }), true),
        (json!({ "missing": null }), false),
        (json!({ "missing": { "$exist": false } }), true),
        (json!({ "missing": { "$ne": 1 } }), true),
        (json!({ "missing": { "deep": { "$exist": false } } }), true),
        (json!({ "missing": { "deep": 1 } }), false),
        (json!({ "missing": { "$gt": 1 } }), false),
        (
            json!({ "type": { "$or": ["x", { "$startsWith": "order" }] } }),
            true,
        ),
        (
            json!({ "type": { "$and": [{ "$startsWith": "x" }, "order.paid"] } }),
            false,
        ),
        (json!({ "type": { "$not": "order.paid" } }), false),
        (json!({ "$or": [{ "amount": 1 }, { "paid": true }] }), true),
        (json!({ "$exist": true }), true),
        (json!({ "customer": { "$$id": "c1" } }), true),
    ] {
        let filter = json!({ "body": condition });
        with_body(BODY, |subject| {
            assert_eq!(unmet(&filter, subject).is_empty(), meets, "{filter}");
        });
    }
}

#[test]
fn a_list_matches_if_one_element_does() {
    for (condition, meets) in [
        (json!({ "customer": { "tags": "vip" } }), true),
        (
            json!({ "customer": { "tags": { "$in": ["eu", "us"] } } }),
            true,
        ),
        (json!({ "customer": { "tags": { "$ne": "vip" } } }), false),
        (json!({ "customer": { "tags": { "$ne": "us" } } }), true),
        (
            json!({ "customer": { "tags": { "$not": { "$startsWith": "v" } } } }),
            false,
        ),
        (
            json!({ "customer": { "tags": { "$and": ["vip", "eu"] } } }),
            true,
        ),
        (
            json!({ "customer": { "tags": { "$startsWith": "v", "$endsWith": "u" } } }),
            false,
        ),
        (
            json!({ "items": { "sku": "b", "qty": { "$gt": 5 } } }),
            true,
        ),
        (
            json!({ "items": { "sku": "a", "qty": { "$gt": 5 } } }),
            false,
        ),
        (
            json!({ "items": { "$and": [{ "sku": "a" }, { "qty": { "$gt": 5 } }] } }),
            true,
        ),
        (json!({ "items": { "gift": { "$exist": false } } }), true),
        (
            json!({ "items": { "$not": { "gift": { "$exist": true } } } }),
            false,
        ),
        (json!({ "nested": 3 }), true),
        (json!({ "nested": { "$gt": 3 } }), false),
        (json!({ "none": { "$exist": true } }), true),
        (json!({ "none": 1 }), false),
        (json!({ "none": { "x": { "$exist": false } } }), false),
        (json!({ "none": { "$ne": 1 } }), true),
    ] {
        let filter = json!({ "body": condition });
        with_body(BODY, |subject| {
            assert_eq!(unmet(&filter, subject).is_empty(), meets, "{filter}");
        });
    }
}

#[test]
fn every_part_of_a_request_can_be_asked_about() {
    for (filter, meets) in [
        (json!({ "method": "POST" }), true),
        (json!({ "method": "post" }), false),
        (json!({ "path": "/hooks/eu" }), true),
        (json!({ "path": { "$startsWith": "/hooks/" } }), true),
        (json!({ "type": { "$in": ["order.paid"] } }), true),
        (json!({ "source": "shop" }), true),
        (json!({ "headers": { "x-github-event": "push" } }), true),
        (
            json!({ "headers": { "X-GITHUB-EVENT": { "$exist": true } } }),
            true,
        ),
        (json!({ "headers": { "x-tag": "two" } }), true),
        (json!({ "headers": { "x-tag": { "$ne": "one" } } }), false),
        (json!({ "headers": { "x-count": 12 } }), true),
        (json!({ "headers": { "x-count": { "$gt": 9 } } }), true),
        (json!({ "headers": { "x-count": { "$gt": "9" } } }), false),
        (json!({ "headers": { "x-odd": "a\u{fffd}" } }), true),
        (
            json!({ "headers": { "x-none": { "$exist": false } } }),
            true,
        ),
        (
            json!({ "headers": { "$or": [{ "x-a": "1" }, { "x-tag": "one" }] } }),
            true,
        ),
        (
            json!({ "query": { "env": "live", "n": { "$lte": 7 } } }),
            true,
        ),
        (json!({ "query": { "tag": "b c" } }), true),
        (json!({ "query": { "ENV": "live" } }), false),
        (
            json!({ "$not": { "method": "GET", "path": "/hooks/eu" } }),
            true,
        ),
        (
            json!({ "$or": [{ "method": "GET" }, { "body": { "paid": true } }] }),
            true,
        ),
        (
            json!({ "method": "POST", "body": { "paid": false } }),
            false,
        ),
    ] {
        with_body(BODY, |subject| {
            assert_eq!(unmet(&filter, subject).is_empty(), meets, "{filter}");
        });
    }
}

#[test]
fn the_unmet_term_is_named() {
    check(
        json!({ "body": { "amount": { "$gte": 1, "$lt": 1000 } } }),
        "/body/amount/$lt",
    );
    check(
        json!({ "body": { "customer": { "country": "DE" } } }),
        "/body/customer/country",
    );
    check(
        json!({ "body": { "items": { "sku": "z", "qty": 1 } } }),
        "/body/items/sku",
    );
    check(
        json!({ "body": { "none": { "sku": "z" } } }),
        "/body/none/sku",
    );
    check(
        json!({ "body": { "$or": [{ "a": 1 }, { "b": 2 }] } }),
        "/body/$or",
    );
    check(
        json!({ "$and": [{ "method": "POST" }, { "path": "/x/y" }] }),
        "/$and/1/path",
    );
    check(
        json!({ "headers": { "X-Tag": { "$nin": ["one"] } } }),
        "/headers/X-Tag/$nin",
    );
    check(json!({ "body": { "a/b~c": 1 } }), "/body/a~1b~0c");
    passes(json!({ "body": { "amount": 1250 } }));
}

#[test]
fn a_body_that_is_no_json_is_like_none() {
    let positive = json!({ "body": { "$exist": true } });
    let negative = json!({ "body": { "type": { "$ne": "x" } } });
    let values = VALUES_MAX / 2;
    let long = format!("{{\"type\": [{}0]}}", "0,".repeat(VALUES_MAX));
    let elsewhere = format!(
        "{{\"other\": [{}0], \"type\": [{0}0]}}",
        "0,".repeat(values)
    );
    for (body, is_json) in [
        (&b"{}"[..], true),
        (b"\xef\xbb\xbf{\"type\": 1}", true),
        (b" 1 ", true),
        (b"{\"type\": {\"deep\": 1}}", true),
        (elsewhere.as_bytes(), true),
        (long.as_bytes(), false),
        (b"", false),
        (b"type=x", false),
        (b"{\"type\": \"x\"", false),
        (b"{\"type\": \"y\"} x", false),
        (b"{\"type\": \"\xff\"}", false),
    ] {
        with_body(body, |subject| {
            let filters = [parsed(&positive), parsed(&negative)];
            let shape = Shape::of(&filters);
            let (picked, view) = shape.pick(subject);
            let expected = if is_json {
                BodyView::Json
            } else {
                BodyView::NotJson
            };
            assert_eq!(view, expected, "{}", body.escape_ascii());
            assert_eq!(filters[0].test(&picked).is_ok(), is_json);
            assert_eq!(filters[1].test(&picked), Ok(()));
        });
    }
}

#[test]
fn a_body_that_no_filter_looks_at_is_not_read() {
    let filter = parsed(&json!({ "method": "POST", "headers": { "a": "b" } }));
    let shape = Shape::of([&filter]);
    with_body(b"no json", |subject| {
        assert_eq!(shape.pick(subject).1, BodyView::Unread);
    });
}

#[test]
fn of_a_repeated_key_the_last_counts() {
    with_body(br#"{"a": {"b": 1, "c": 1}, "a": {"b": 2}}"#, |subject| {
        assert_eq!(unmet(&json!({ "body": { "a": { "b": 2 } } }), subject), "");
        assert_eq!(
            unmet(
                &json!({ "body": { "a": { "c": { "$exist": false } } } }),
                subject
            ),
            ""
        );
    });
}

#[track_caller]
fn refused(filter: Value, expected: &[(&str, &str)]) {
    let faults = match Filter::parse(&filter) {
        Ok(_) => panic!("{filter} is taken"),
        Err(error) => error.faults,
    };
    assert_eq!(faults.len(), expected.len(), "{filter}: {faults:?}");
    for (fault, (pointer, why)) in faults.iter().zip(expected) {
        assert_eq!(fault.pointer, *pointer, "{filter}: {faults:?}");
        assert!(fault.why.contains(why), "{filter}: {faults:?}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    refused(json!([]), &[("", "must be an object")]);
    refused(json!("x"), &[("", "must be an object")]);
    refused(json!({}), &[("", "says nothing")]);
    refused(
        json!({ "boddy": { "a": 1 } }),
        &[("/boddy", "did you mean `body`?")],
    );
    refused(json!({ "$eq": 1 }), &[("/$eq", "name a part")]);
    refused(
        json!({ "body": { "a": { "$gtt": 1 } } }),
        &[("/body/a/$gtt", "did you mean `$gt`?")],
    );
    refused(
        json!({ "body": { "a": { "$gt": true } } }),
        &[("/body/a/$gt", "a number or a text")],
    );
    refused(
        json!({ "body": { "a": { "$exist": 1 } } }),
        &[("/body/a/$exist", "true or false")],
    );
    refused(
        json!({ "body": { "a": { "$in": 1 } } }),
        &[("/body/a/$in", "a list")],
    );
    refused(
        json!({ "body": { "a": { "$in": [] } } }),
        &[("/body/a/$in", "at least one")],
    );
    refused(
        json!({ "body": { "a": { "$in": [1, {}] } } }),
        &[("/body/a/$in/1", "a text, a number")],
    );
    refused(
        json!({ "body": { "a": { "$eq": [1] } } }),
        &[("/body/a/$eq", "a text, a number")],
    );
    refused(
        json!({ "body": { "a": { "$startsWith": 1 } } }),
        &[("/body/a/$startsWith", "a text")],
    );
    refused(
        json!({ "body": { "a": { "$or": { "b": 1 } } } }),
        &[("/body/a/$or", "a list")],
    );
    refused(json!({ "body": { "a": [1, 2] } }), &[("/body/a", "$in")]);
    refused(
        json!({ "body": { "a": {} } }),
        &[("/body/a", "says nothing")],
    );
}

#[test]
fn what_makes_no_sense_at_its_place_is_refused() {
    refused(json!({ "headers": "x" }), &[("/headers", "by name")]);
    refused(
        json!({ "headers": { "$exist": true } }),
        &[("/headers/$exist", "name a part or field")],
    );
    refused(
        json!({ "headers": { "a": { "b": 1 } } }),
        &[("/headers/a/b", "no fields")],
    );
    refused(
        json!({ "method": { "in": ["GET"] } }),
        &[("/method/in", "did you mean `$in`?")],
    );
    refused(
        json!({ "headers": { "A": "1", "a": "2" } }),
        &[("/headers/a", "twice")],
    );
    refused(
        json!({ "bdy": 1, "body": { "$x": 1, "a/b": { "$not": [] } } }),
        &[
            ("/bdy", "asks about"),
            ("/body/$x", "no operator"),
            ("/body/a~1b/$not", "a list"),
        ],
    );
}

#[test]
fn filters_have_limits() {
    let nested = |levels: usize| {
        let leaf = json!({ "a": 1 });
        (1..levels).fold(leaf, |inner, _| json!({ "a": inner }))
    };
    Filter::parse(&json!({ "body": nested(DEPTH_MAX - 1) })).unwrap();
    let deep = Filter::parse(&json!({ "body": nested(DEPTH_MAX) })).unwrap_err();
    assert!(deep.faults[0].why.contains("levels"), "{deep}");

    let values = |count: usize| json!({ "type": { "$in": vec!["x"; count] } });
    assert_eq!(parsed(&values(TERMS_MAX - 1)).terms(), TERMS_MAX);
    let wide = Filter::parse(&values(TERMS_MAX)).unwrap_err();
    assert!(wide.faults[0].why.contains("terms"), "{wide}");

    let long = json!({ "type": "x".repeat(FILTER_BYTES_MAX) });
    let long = Filter::parse(&long).unwrap_err();
    assert!(long.faults[0].why.contains("bytes"), "{long}");
    let faulty = json!({ "body": { "$or": vec![json!({ "$x": 1 }); 100] } });
    assert!(Filter::parse(&faulty).unwrap_err().faults.len() <= 16);
}
