//! Bytes of every request and answer, and both ends over a network that does what networks do.

mod golden;

mod network;

use bytes::Bytes;

use super::{AgentPipe, Answer, Farewell, Request, Upward};
use crate::{
    codec::DecodeError,
    id::PipeId,
    limits::{BATCH_BYTES_MAX, FRAME_LENGTH_BYTES, MESSAGE_BYTES_MAX},
    poll::RelayPipe,
    session::{Close, CloseCode},
};

fn frame(number: u64) -> Bytes {
    Bytes::from(number.to_be_bytes().to_vec())
}

fn down(answer: Option<Bytes>) -> (Option<u64>, usize, Option<u16>) {
    match Answer::decode(answer.unwrap()).unwrap() {
        Answer::Down {
            batch,
            close,
            frames,
        } => (batch, frames.len(), close.map(|close| close.code)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_poll_waits_for_something_to_say_and_repeats_it_until_it_was_received() {
    let mut relay = RelayPipe::default();
    let held = relay.begin_poll(0).unwrap();
    assert_eq!(relay.answer_poll(held), None);
    relay.push(frame(1));
    relay.push(frame(2));
    assert_eq!(down(relay.answer_poll(held)), (Some(1), 2, None));

    relay.push(frame(3));
    let again = relay.begin_poll(0).unwrap();
    assert_eq!(down(relay.answer_poll(again)), (Some(1), 2, None));
    let next = relay.begin_poll(1).unwrap();
    assert_eq!(down(relay.answer_poll(next)), (Some(2), 1, None));
}

#[test]
fn a_later_poll_ends_the_one_before_and_a_late_one_ends_nothing() {
    let mut relay = RelayPipe::default();
    let first = relay.begin_poll(0).unwrap();
    let second = relay.begin_poll(0).unwrap();
    assert_eq!(down(relay.answer_poll(first)), (None, 0, None));
    assert_eq!(relay.answer_poll(second), None);
    relay.push(frame(1));
    relay.answer_poll(second).unwrap();

    let third = relay.begin_poll(1).unwrap();
    let delayed = relay.begin_poll(0).unwrap();
    assert_eq!(down(relay.answer_poll(delayed)), (None, 0, None));
    assert_eq!(relay.answer_poll(third), None, "still held");
    assert!(relay.begin_poll(2).is_err());
}

#[test]
fn what_waits_is_said_before_the_farewell_which_is_repeated_too() {
    let mut relay = RelayPipe::default();
    relay.push(frame(1));
    relay.end(Farewell::from(&Close::new(CloseCode::Busy, "full")));
    relay.push(frame(2));
    assert!(!relay.is_said());
    for _ in 0..2 {
        let poll = relay.begin_poll(0).unwrap();
        assert_eq!(down(relay.answer_poll(poll)), (Some(1), 1, Some(4013)));
    }
    assert!(relay.is_said());
    assert_eq!(relay.judge(1), Ok(Upward::Repeated), "nobody reads it");
}

#[test]
fn an_upward_batch_is_taken_once_and_not_before_the_last_was_read() {
    let mut relay = RelayPipe::default();
    assert_eq!(relay.judge(1), Ok(Upward::Next));
    relay.take(vec![frame(1), frame(2)], None);
    assert_eq!(relay.judge(1), Ok(Upward::Repeated));
    assert_eq!(relay.judge(2), Ok(Upward::Full));
    assert!(relay.judge(3).is_err());
    assert_eq!(relay.read(), Some(frame(1)));
    assert_eq!(relay.judge(2), Ok(Upward::Full));
    assert_eq!(relay.read(), Some(frame(2)));
    assert_eq!(relay.judge(2), Ok(Upward::Next));
    relay.take(
        Vec::new(),
        Some(Farewell::from(&Close::new(CloseCode::Replaced, "newer"))),
    );
    assert!(relay.judge(3).is_err());
}

#[test]
fn batches_are_bounded_and_take_the_longest_frame() {
    let mut pipe = AgentPipe::new(PipeId::from_u128(1));
    let longest = Bytes::from(vec![7; MESSAGE_BYTES_MAX]);
    let mut pushed = 0;
    while pipe.has_room() {
        pipe.push(longest.clone());
        pushed += 1;
    }
    assert!(
        pushed * (MESSAGE_BYTES_MAX + FRAME_LENGTH_BYTES) < BATCH_BYTES_MAX + MESSAGE_BYTES_MAX
    );
    let Request::Up { frames, batch, .. } = Request::decode(pipe.next_up().unwrap()).unwrap()
    else {
        panic!("no batch");
    };
    assert_eq!((frames.len(), batch), (1, 1));
    assert!(frames[0] == longest);
}

#[test]
fn what_is_no_request_is_told_apart() {
    let up = |body: &[u8]| {
        let header = br#"{"link":"pip_00000000000000000000000001","batch":1}"#;
        let length = (header.len() as u32).to_be_bytes();
        Bytes::from([b"\x72", &length[..], header, body].concat())
    };
    assert!(Request::decode(up(b"")).is_ok());
    for broken in [
        &b"\x00\x00\x00"[..],
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x02x",
    ] {
        let decoded = Request::decode(up(broken));
        assert!(
            matches!(decoded, Err(DecodeError::Truncated)),
            "{decoded:?}"
        );
    }
    let long = vec![0; BATCH_BYTES_MAX + 1];
    assert!(matches!(
        Request::decode(up(&long)),
        Err(DecodeError::TooLong)
    ));
    for page in ["<html>", "", "{}"] {
        assert!(Answer::decode(Bytes::from_static(page.as_bytes())).is_err());
    }
}
