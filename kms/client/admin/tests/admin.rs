//! Typed answers and retries, against a key service that is only its face, over real mutual TLS.

#[path = "../../../tests/support/pki.rs"]
#[allow(unreachable_pub)]
mod pki;

use std::sync::{Arc, Mutex};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use bytes::Bytes;
use strongroom_kms_admin::{KeyAdminClient, KeyChange, KeyMaterial, NewKey, VersionState};
use strongroom_proto::{
    EdekSuite, Failure, KeyName, KeyVersion, Reason, RequestId,
    kms::v1::{
        Alias, ApproveDeleteRequest, CancelDeleteRequest, ConfirmKeyRequest, CreateKeyRequest, DeleteAliasRequest,
        DeleteAliasResponse, DeleteKeyRequest, Deletion, DescribeKeyRequest, GetImportKeyRequest, GetImportKeyResponse,
        ImportKeyRequest, Key, KeyVersion as WireVersion, KeyVersionState, ListAliasesRequest, ListAliasesResponse,
        ListInstancesRequest, ListInstancesResponse, ListKeysRequest, ListKeysResponse, ListVersionsRequest,
        ListVersionsResponse, RollKeyRequest, SetAliasRequest, UpdateKeyRequest,
        key_admin_server::{KeyAdmin, KeyAdminServer},
    },
    transport,
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

/// Knows keys with a missing, a superseded and an active version, and fails its first create.
#[derive(Default, Clone)]
struct Face {
    creates: Arc<Mutex<Vec<CreateKeyRequest>>>,
    imports: Arc<Mutex<Vec<ImportKeyRequest>>>,
    /// Of the key that imported keys are wrapped to.
    spki: Bytes,
}

fn key(name: String) -> Response<Key> {
    let states = [
        KeyVersionState::Missing,
        KeyVersionState::DecryptOnly,
        KeyVersionState::Active,
    ];
    let version = |(number, state): (u32, KeyVersionState)| WireVersion {
        version: number,
        state: state.into(),
        created_ms: 7,
        kcv: vec![1, 2, 3].into(),
        token_id: vec![9; 16].into(),
        ..WireVersion::default()
    };
    Response::new(Key {
        name,
        suite: "kw".to_owned(),
        current_version: Some(2),
        versions: (0..).zip(states).map(version).collect(),
        created_ms: 5,
        ..Key::default()
    })
}

#[async_trait]
impl KeyAdmin for Face {
    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<Key>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        let mut creates = self.creates.lock().expect("unpoisoned");
        creates.push(request);
        match creates.len() {
            1 => Err(Failure::new(Reason::TokenUnavailable, "coming up").into()),
            _ => Ok(key(name)),
        }
    }
    async fn describe_key(&self, request: Request<DescribeKeyRequest>) -> Result<Response<Key>, Status> {
        Ok(key(request.into_inner().name))
    }
    async fn list_keys(&self, request: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(ListKeysResponse {
            keys: vec![key(format!("{}-after", request.after)).into_inner(); request.limit as usize],
            more: true,
            next: "later".to_owned(),
        }))
    }
    async fn list_versions(&self, _: Request<ListVersionsRequest>) -> Result<Response<ListVersionsResponse>, Status> {
        Ok(Response::new(ListVersionsResponse {
            versions: key("any".to_owned()).into_inner().versions,
            more: false,
        }))
    }
    async fn update_key(&self, request: Request<UpdateKeyRequest>) -> Result<Response<Key>, Status> {
        let request = request.into_inner();
        let changed = Key {
            disabled: request.disabled.unwrap_or_default(),
            tags: request.set_tags,
            ..key(request.name).into_inner()
        };
        Ok(Response::new(changed))
    }
    async fn set_alias(&self, request: Request<SetAliasRequest>) -> Result<Response<Alias>, Status> {
        let SetAliasRequest { alias, key_name, .. } = request.into_inner();
        Ok(Response::new(Alias { alias, key_name }))
    }
    async fn delete_alias(&self, _: Request<DeleteAliasRequest>) -> Result<Response<DeleteAliasResponse>, Status> {
        Ok(Response::new(DeleteAliasResponse {}))
    }
    async fn list_aliases(&self, _: Request<ListAliasesRequest>) -> Result<Response<ListAliasesResponse>, Status> {
        Ok(Response::new(ListAliasesResponse::default()))
    }
    async fn delete_key(&self, request: Request<DeleteKeyRequest>) -> Result<Response<Key>, Status> {
        let deleted = Key {
            deletion: Some(Deletion {
                requested_by: "user keyadmin".to_owned(),
                due_ms: Some(9),
                zones_without_proof: request.get_ref().proofs.clone(),
                ..Deletion::default()
            }),
            ..key(request.into_inner().name).into_inner()
        };
        Ok(Response::new(deleted))
    }
    async fn cancel_delete(&self, request: Request<CancelDeleteRequest>) -> Result<Response<Key>, Status> {
        Ok(key(request.into_inner().name))
    }
    async fn approve_delete(&self, request: Request<ApproveDeleteRequest>) -> Result<Response<Key>, Status> {
        Ok(key(request.into_inner().name))
    }
    async fn roll_key(&self, request: Request<RollKeyRequest>) -> Result<Response<Key>, Status> {
        Ok(key(request.into_inner().name))
    }
    async fn get_import_key(&self, _: Request<GetImportKeyRequest>) -> Result<Response<GetImportKeyResponse>, Status> {
        Ok(Response::new(GetImportKeyResponse {
            spki: self.spki.clone(),
            id: vec![4; 16].into(),
            hash: "sha256".to_owned(),
        }))
    }
    async fn import_key(&self, request: Request<ImportKeyRequest>) -> Result<Response<Key>, Status> {
        let request = request.into_inner();
        let name = request.key.clone().unwrap_or_default().name;
        self.imports.lock().expect("unpoisoned").push(request);
        Ok(key(name))
    }
    async fn list_instances(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        Ok(Response::new(ListInstancesResponse::default()))
    }
    async fn confirm_key(&self, _: Request<ConfirmKeyRequest>) -> Result<Response<Key>, Status> {
        Err(Failure::new(Reason::KeyNotFound, "no such key").into())
    }
}

async fn connect(face: &Face) -> KeyAdminClient {
    let pki = pki::Pki::new();
    let listener = transport::bind(([127, 0, 0, 1], 0).into()).await.expect("a port");
    let remote = listener.local_addr().expect("an address").to_string();
    let tls = pki::load(&pki.issue("kms", "service/kms"));
    let routes = Routes::new(KeyAdminServer::new(face.clone()));
    tokio::spawn(async move { transport::serve(listener, &tls, routes, std::future::pending()).await });
    let admin = pki::load(&pki.issue("keyadmin", "user/keyadmin"));
    KeyAdminClient::connect(&remote.parse().expect("an address"), &admin)
}

#[tokio::test]
async fn keys_come_back_typed_and_a_retry_keeps_its_request_id() {
    let face = Face::default();
    let client = connect(&face).await;
    let name: KeyName = "payroll".parse().expect("a key name");
    let key = client
        .create(&name, &NewKey::default(), RequestId::generate())
        .await
        .expect("the second call succeeds");
    assert_eq!(
        (&key.name, key.suite, key.current, key.created_ms),
        (&name, EdekSuite::Kw, Some(KeyVersion(2)), 5)
    );
    let states: Vec<_> = key.versions.iter().map(|version| version.state).collect();
    assert_eq!(
        states,
        [VersionState::Missing, VersionState::DecryptOnly, VersionState::Active]
    );
    assert_eq!((key.versions[2].kcv, key.versions[2].token_id), ([1, 2, 3], [9; 16]));
    {
        let creates = face.creates.lock().expect("unpoisoned");
        assert_eq!(creates.len(), 2);
        assert_eq!(creates[0], creates[1]);
    }

    assert_eq!(client.describe(&name).await, Ok(key.clone()));
    assert_eq!(client.roll(&name, RequestId::generate()).await, Ok(key));
    let page = client.list(Some(&name), 2).await.expect("a page");
    assert_eq!((page.keys.len(), page.next), (2, "later".parse().ok()));
    assert_eq!(page.keys[0].name.as_str(), "payroll-after");
    assert_eq!(
        client
            .confirm(&name, KeyVersion(2), [1, 2, 3])
            .await
            .expect_err("refused")
            .reason,
        Reason::KeyNotFound
    );
}

#[tokio::test]
async fn changes_and_deletions_survive_the_wire() {
    let client = connect(&Face::default()).await;
    let name: KeyName = "payroll".parse().expect("a key name");
    let change = KeyChange {
        disabled: Some(true),
        set_tags: [("team".to_owned(), "hr".to_owned())].into(),
        ..KeyChange::default()
    };
    let key = client.update(&name, &change).await.expect("changed");
    assert_eq!((key.disabled, &key.tags), (true, &change.set_tags));

    let proof = Bytes::from_static(&[7; 16]);
    let key = client.delete(&name, None, 7, vec![proof]).await.expect("scheduled");
    let deletion = key.deletion.expect("pending");
    assert_eq!(
        (deletion.due_ms, deletion.requested_by.as_str()),
        (Some(9), "user keyadmin")
    );
    assert_eq!(deletion.zones_without_proof[0].as_bytes(), &[7; 16]);
    let (versions, more) = client.list_versions(&name, None, 0).await.expect("a page");
    assert_eq!((versions.len(), more), (3, false));
    assert_eq!(client.list_aliases(None, 0).await.expect("a page").next, None);
}

#[tokio::test]
async fn what_is_imported_leaves_this_program_wrapped() {
    let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).expect("an RSA key");
    let public = private.public_key();
    let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(&public).expect("DER");
    let face = Face {
        spki: Bytes::copy_from_slice(spki.as_ref()),
        ..Face::default()
    };
    let client = connect(&face).await;
    let name: KeyName = "lake".parse().expect("a key name");
    let new = NewKey {
        suite: Some(EdekSuite::Hadoop),
        ..NewKey::default()
    };
    let material = [[1_u8; 16], [2; 16]].map(|key| KeyMaterial::new(key.to_vec().into()).expect("a key"));
    client
        .import(&name, &new, &material, RequestId::generate())
        .await
        .expect("imported");
    let imports = face.imports.lock().expect("unpoisoned");
    let asked = imports[0].key.clone().expect("says what");
    assert_eq!((asked.suite.as_str(), asked.key_bits), ("hadoop", 128));
    assert_eq!(imports[0].import_key, [4; 16].as_slice());
    let private = OaepPrivateDecryptingKey::new(private).expect("for OAEP");
    for (wrapped, key) in imports[0].wrapped.iter().zip([[1; 16], [2; 16]]) {
        let mut out = vec![0; private.min_output_size()];
        let opened = private.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut out, None);
        assert_eq!(opened.expect("opens"), key);
    }
}
