//! Tokens in use: who shows one, from where and when; and a new text for one that goes on.

use std::{net::IpAddr, sync::Arc, time::Duration};

use protocol::id::{TenantId, TokenId};
use tracing::warn;

use super::{
    Invalid, OVERLAP_MAX, Tenancy, TenancyError, Token, TokenRefusal, TokenText, change::Change,
};
use crate::clock::Timestamp;

/// How far apart two uses are that are both noted in the store: a token that is used all the time
/// costs one write a minute.
const NOTED_EVERY: Duration = Duration::from_mins(1);

/// When a token was last used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    at: Timestamp,
    /// The use that the store knows of.
    noted: Timestamp,
}

impl Tenancy {
    /// Recognises a credential, checks where it comes from, and remembers that it was used.
    ///
    /// # Errors
    ///
    /// [`TokenRefusal`] says why it is not accepted.
    pub fn authenticate(
        &self,
        text: &str,
        remote: Option<IpAddr>,
    ) -> Result<Arc<Token>, TokenRefusal> {
        let now = self.now();
        let token = self.directory().authenticate(text, now)?;
        if !token.may_come_from(remote) {
            return Err(TokenRefusal::Address);
        }
        let mut used = self.used.entry(token.id).or_insert(Use {
            at: now,
            noted: Timestamp(0),
        });
        used.at = now;
        drop(used);
        Ok(token)
    }

    /// When a token was last used, as far as this relay knows.
    pub fn last_used(&self, token: TokenId) -> Option<Timestamp> {
        self.used.get(&token).map(|used| used.at)
    }

    /// Learns from the store what was used before this start.
    pub(super) async fn load_uses(&self) -> Result<(), TenancyError> {
        let directory = Arc::clone(&self.directory());
        for (id, at) in self.settings.token_uses().await? {
            let id = TokenId::from_u128(id);
            if directory.token(id).is_some() {
                self.used.insert(id, Use { at, noted: at });
            }
        }
        Ok(())
    }

    /// Notes in the store which tokens were used, those of the last minute aside. Call it now and then.
    pub async fn note_uses(&self) {
        let directory = Arc::clone(&self.directory());
        self.used.retain(|id, _| directory.token(*id).is_some());
        let due = self
            .used
            .iter()
            .filter(|used| used.at >= used.noted.after(NOTED_EVERY));
        let due: Vec<_> = due.map(|used| (used.key().as_u128(), used.at)).collect();
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.settings.note_token_uses(due.clone()).await {
            warn!(%error, "the last use of some tokens is not stored");
            return;
        }
        for (id, at) in due {
            if let Some(mut used) = self.used.get_mut(&TokenId::from_u128(id)) {
                used.noted = at;
            }
        }
    }

    /// Gives a token a new text; the one it has goes on being accepted until `overlap` has passed. The
    /// new text is shown here and never again.
    ///
    /// # Errors
    ///
    /// `NotFound` also if it is somebody else's.
    pub async fn rotate_token(
        &self,
        tenant: Option<TenantId>,
        id: TokenId,
        overlap: Duration,
    ) -> Result<(Arc<Token>, TokenText), TenancyError> {
        if overlap > OVERLAP_MAX {
            return Err(Invalid::new("overlap_s", "must be at most 30 days").into());
        }
        let mut change = Change::begin(self).await?;
        let found = change.records().tokens.get(&id);
        let found = found.filter(|it| it.tenant == tenant && it.revoked_at.is_none());
        let mut token = Token::clone(found.ok_or(TenancyError::NotFound("token"))?);
        let text = TokenText::generate(token.kind)?;
        let until = self.clock.now().after(overlap);
        token.previous = (!overlap.is_zero()).then_some((token.hash, until));
        token.hash = text.hash();
        let version = token.revision.version;
        Ok((change.put(token, Some(version)).await?, text))
    }
}
