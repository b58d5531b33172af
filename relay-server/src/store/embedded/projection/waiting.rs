//! What an open delivery that is not in anybody's hands waits for, as the tables have it.

use protocol::id::{DeliveryId, TenantId};
use rusqlite::{Connection, OptionalExtension, params};

use super::apply::blob;
use crate::{
    clock::Timestamp,
    lifecycle::{DeliveryState, Waiting},
};

/// An open delivery, as far as it matters for what it waits for.
struct Open {
    destination: [u8; 16],
    due: Timestamp,
    order: Option<i64>,
}

/// What a delivery waits for; `None` if the tenant has no such open delivery.
pub(crate) fn waiting(
    connection: &Connection,
    tenant: TenantId,
    delivery: DeliveryId,
    now: Timestamp,
) -> rusqlite::Result<Option<Waiting>> {
    let found = connection
        .prepare_cached(
            "SELECT destination, due, order_key FROM deliveries
             WHERE id = ?1 AND tenant = ?2 AND state <= ?3",
        )?
        .query_row(
            params![
                blob(delivery.as_u128()),
                blob(tenant.as_u128()),
                super::apply::state_number(DeliveryState::Retry),
            ],
            |row| {
                Ok(Open {
                    destination: row.get(0)?,
                    due: Timestamp(row.get(1)?),
                    order: row.get(2)?,
                })
            },
        )
        .optional()?;
    let Some(open) = found else {
        return Ok(None);
    };
    if let Some(order) = open.order
        && let Some(waiting) = in_line(connection, &open, order, delivery)?
    {
        return Ok(Some(waiting));
    }
    Ok(Some(if open.due > now {
        Waiting::Retry { at: open.due }
    } else {
        Waiting::Turn
    }))
}

/// What holds up the key of a delivery, if it is not this delivery's turn.
fn in_line(
    connection: &Connection,
    open: &Open,
    order: i64,
    delivery: DeliveryId,
) -> rusqlite::Result<Option<Waiting>> {
    let parked: Option<u64> = connection
        .prepare_cached("SELECT since FROM parked WHERE destination = ? AND order_key = ?")?
        .query_row(params![open.destination, order], |row| row.get(0))
        .optional()?;
    if let Some(since) = parked {
        let since = Timestamp(since);
        return Ok(Some(Waiting::Parked { since }));
    }
    let head: Option<[u8; 16]> = connection
        .prepare_cached(
            "SELECT d.id FROM pending p JOIN deliveries d ON d.seq = p.seq
             WHERE p.destination = ? AND p.order_key = ? ORDER BY p.place LIMIT 1",
        )?
        .query_row(params![open.destination, order], |row| row.get(0))
        .optional()?;
    let head = head.map(|id| DeliveryId::from_u128(u128::from_be_bytes(id)));
    let behind = head.filter(|head| *head != delivery);
    Ok(behind.map(|delivery| Waiting::Behind { delivery }))
}
