//! Objects in memory, as S3 has them.

use std::collections::BTreeMap;
use std::ops::Bound;

use futures::StreamExt as _;
use hyper::StatusCode;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput,
    RestoreObjectInput, RestoreObjectOutput, StreamingBlob,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use sha2::{Digest as _, Sha256};

use super::{Conditions, Fetched, Object, Shared};

pub(super) struct Objects(pub(super) Shared);

type Bucket = BTreeMap<String, Object>;

impl Objects {
    fn with<T>(
        &self,
        bucket: &str,
        work: impl FnOnce(&mut Bucket, Conditions, usize) -> S3Result<T>,
    ) -> S3Result<T> {
        let mut state = self.0.state();
        let (conditions, page) = (state.conditions, state.page);
        let bucket = state.buckets.get_mut(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        work(bucket, conditions, page)
    }
}

fn size(bytes: &[u8]) -> Option<i64> {
    i64::try_from(bytes.len()).ok()
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let PutObjectInput { bucket, key, body, if_none_match, storage_class, checksum_sha256, .. } =
            request.input;
        let mut bytes = Vec::new();
        if let Some(mut body) = body {
            while let Some(part) = body.next().await {
                bytes.extend_from_slice(&part.map_err(|_| s3_error!(IncompleteBody))?);
            }
        }
        let sum = data_encoding::BASE64.encode(&Sha256::digest(&bytes));
        if checksum_sha256.as_ref().is_none_or(|told| *told != sum) {
            return Err(s3_error!(BadDigest));
        }
        self.with(&bucket, |objects, conditions, _| {
            match (if_none_match.is_some(), conditions) {
                (true, Conditions::Refused) => return Err(s3_error!(NotImplemented)),
                (true, Conditions::Heeded) if objects.contains_key(&key) => {
                    return Err(s3_error!(PreconditionFailed));
                }
                _ => {}
            }
            let storage_class = storage_class.map(|class| class.as_str().to_owned());
            objects.insert(key, Object { bytes, storage_class, ..Object::default() });
            Ok(S3Response::new(PutObjectOutput::default()))
        })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, .. } = request.input;
        self.with(&bucket, |objects, _, _| {
            let object = objects.get(&key).ok_or_else(|| s3_error!(NoSuchKey))?;
            if object.is_cold() && object.fetched != Fetched::There {
                return Err(s3_error!(InvalidObjectState));
            }
            let whole = object.bytes.len() as u64;
            let (part, content_range) = match range {
                None => (0..whole, None),
                Some(range) => {
                    let part = range.check(whole)?;
                    let said = format!("bytes {}-{}/{whole}", part.start, part.end - 1);
                    (part, Some(said))
                }
            };
            let bytes = object.bytes[part.start as usize..part.end as usize].to_vec();
            let content_length = size(&bytes);
            let body = Some(StreamingBlob::from(Body::from(bytes)));
            Ok(S3Response::new(GetObjectOutput { body, content_length, content_range, ..Default::default() }))
        })
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput { bucket, key, .. } = request.input;
        self.with(&bucket, |objects, _, _| {
            let object = objects.get(&key).ok_or_else(|| s3_error!(NoSuchKey))?;
            let content_length = size(&object.bytes);
            let restore = match object.fetched {
                Fetched::Never => None,
                Fetched::UnderWay => Some("ongoing-request=\"true\"".to_owned()),
                Fetched::There => {
                    let until = "expiry-date=\"Fri, 21 Dec 2112 00:00:00 GMT\"";
                    Some(format!("ongoing-request=\"false\", {until}"))
                }
            };
            let storage_class = object.storage_class.clone().map(Into::into);
            Ok(S3Response::new(HeadObjectOutput {
                content_length,
                restore,
                storage_class,
                ..Default::default()
            }))
        })
    }

    async fn restore_object(
        &self,
        request: S3Request<RestoreObjectInput>,
    ) -> S3Result<S3Response<RestoreObjectOutput>> {
        let RestoreObjectInput { bucket, key, restore_request, .. } = request.input;
        self.with(&bucket, |objects, _, _| {
            let object = objects.get_mut(&key).ok_or_else(|| s3_error!(NoSuchKey))?;
            let asked = restore_request.ok_or_else(|| s3_error!(MalformedXML))?;
            let status = match (object.is_cold(), object.fetched) {
                (false, _) => return Err(s3_error!(InvalidObjectState)),
                (true, Fetched::UnderWay) => return Err(s3_error!(RestoreAlreadyInProgress)),
                (true, Fetched::There) => StatusCode::OK,
                (true, Fetched::Never) => StatusCode::ACCEPTED,
            };
            if object.fetched == Fetched::Never {
                object.fetched = Fetched::UnderWay;
                let tier = asked.glacier_job_parameters.map(|how| how.tier.as_str().to_owned());
                object.asked = asked.days.zip(tier);
            }
            Ok(S3Response::with_status(RestoreObjectOutput::default(), status))
        })
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, .. } = request.input;
        self.with(&bucket, |objects, _, _| {
            objects.remove(&key);
            Ok(S3Response::new(DeleteObjectOutput::default()))
        })
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { bucket, prefix, continuation_token, max_keys, .. } = request.input;
        let prefix = prefix.unwrap_or_default();
        self.with(&bucket, |objects, _, page| {
            let asked = max_keys.and_then(|most| usize::try_from(most).ok()).unwrap_or(page);
            let most = asked.min(page);
            let from = match &continuation_token {
                Some(last) => Bound::Excluded(last.clone()),
                None => Bound::Included(prefix.clone()),
            };
            let below = objects.range((from, Bound::Unbounded)).filter(|(key, _)| key.starts_with(&prefix));
            let mut all: Vec<(String, i64)> = below
                .take(most + 1)
                .map(|(key, object)| (key.clone(), size(&object.bytes).unwrap_or(0)))
                .collect();
            let is_truncated = all.len() > most;
            all.truncate(most);
            let last = all.last().map(|(key, _)| key.clone());
            let entry = |(key, size): (String, i64)| s3s::dto::Object {
                key: Some(key),
                size: Some(size),
                ..Default::default()
            };
            Ok(S3Response::new(ListObjectsV2Output {
                contents: Some(all.into_iter().map(entry).collect()),
                is_truncated: Some(is_truncated),
                next_continuation_token: last.filter(|_| is_truncated),
                name: Some(bucket.clone()),
                ..Default::default()
            }))
        })
    }
}
