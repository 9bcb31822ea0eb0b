//! Writes the roles' configurations, from the data directory's paths and ports.

use std::path::Path;

use strongroom_proto::transport::TlsFiles;

use super::{
    DevError,
    files::{self, Audience, make_private_dir, toml_string},
    layout::{Layout, Role},
    pki,
    ports::Ports,
    token::{self, DevToken},
};

/// The policy that every data directory starts with: the sample, whose users are those of [`super::pki::USERS`].
const POLICY: &str = include_str!("../../../kms/policy/sample.cedar");

/// Configurations follow from the data directory, so they are written at every start; the policy is the user's to edit
/// and is written once.
pub(super) fn write_all(
    layout: &Layout,
    ports: &Ports,
    module: &Path,
    tokens: &[DevToken],
    plain_files: bool,
) -> Result<(), DevError> {
    if files::read(&layout.policy())?.is_none() {
        files::write(&layout.policy(), POLICY, Audience::Owner)?;
    }
    for role in Role::ALL {
        make_private_dir(&layout.state(role))?;
        let text = match role {
            Role::Kms => kms(layout, ports, module, tokens),
            Role::Metadata => metadata(layout, ports, plain_files),
            Role::Block(_) => block(layout, ports, role),
        };
        files::write(&layout.config(role), &text, Audience::Owner)?;
    }
    Ok(())
}

fn kms(layout: &Layout, ports: &Ports, module: &Path, tokens: &[DevToken]) -> String {
    let tokens: String = tokens
        .iter()
        .map(|&token| token::kms_table(layout, module, token))
        .collect();
    format!(
        "{head}policy = {policy}\ndata_dir = {data_dir}\n{tokens}{tls}{sealed}",
        head = head(ports, Role::Kms),
        policy = toml_string(&layout.policy()),
        data_dir = toml_string(&layout.state(Role::Kms)),
        tls = tls_table(&layout.tls("kms")),
        sealed = sealed_table(&layout.tls(pki::TOKEN_WORKER)),
    )
}

fn metadata(layout: &Layout, ports: &Ports, plain_files: bool) -> String {
    format!(
        "{head}data_dir = {data_dir}\nkms = \"{kms}\"\nsuperusers = [\"fsadmin\"]\n{tls}\n[settings]\nplain_files = {plain_files}\n",
        head = head(ports, Role::Metadata),
        data_dir = toml_string(&layout.state(Role::Metadata)),
        kms = ports.kms_remote(),
        tls = tls_table(&layout.tls("metadata")),
    )
}

fn block(layout: &Layout, ports: &Ports, role: Role) -> String {
    format!(
        "{head}node_id = \"{name}\"\nadvertise = \"localhost:{port}\"\nmetadata = \"{metadata}\"\ndata_dir = {data_dir}\n{tls}",
        head = head(ports, role),
        name = role.name(),
        port = ports.of(role),
        metadata = ports.metadata_remote(),
        data_dir = toml_string(&layout.state(role)),
        tls = tls_table(&layout.tls(&role.name())),
    )
}

fn head(ports: &Ports, role: Role) -> String {
    format!(
        "# Written by strongroom dev at every start; changes here are lost.\nlisten = \"{}\"\n",
        ports.listen(role)
    )
}

fn tls_table(files: &TlsFiles) -> String {
    format!(
        "\n[tls]\nca = {}\ncertificate = {}\nkey = {}\n",
        toml_string(&files.ca),
        toml_string(&files.certificate),
        toml_string(&files.key)
    )
}

/// Sealed delivery for whoever asks for it; nothing is sealed only.
fn sealed_table(files: &TlsFiles) -> String {
    format!(
        "\n[sealed]\ncertificate = {}\nkey = {}\n",
        toml_string(&files.certificate),
        toml_string(&files.key)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_read_what_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (layout, _lock) = Layout::open(Some(&dir.path().join("a \"b\" c"))).expect("opens");
        let ports = Ports {
            kms: 7600,
            metadata: 7601,
            block: [7602, 7603, 7604],
        };
        let tokens = [DevToken::First, DevToken::Second];
        write_all(
            &layout,
            &ports,
            Path::new("/usr/lib/softhsm/libsofthsm2.so"),
            &tokens,
            false,
        )
        .expect("writes");
        let kms = strongroom_kms::Config::load(&layout.config(Role::Kms)).expect("the key service reads it");
        let labels: Vec<_> = kms.tokens.iter().map(|token| token.label.as_str()).collect();
        assert_eq!(labels, tokens.map(DevToken::label));
        assert!(
            kms.tokens[0].sealed.is_some(),
            "sealed delivery reaches the token worker"
        );
        let metadata = strongroom_metadata::Config::load(&layout.config(Role::Metadata)).expect("metadata reads it");
        assert_eq!(metadata.data_dir, layout.state(Role::Metadata));
        for node in 1..=3 {
            let config = strongroom_block::Config::load(&layout.config(Role::Block(node))).expect("the node reads it");
            assert_eq!(config.node_id.to_string(), format!("block-{node}"));
        }
    }

    #[test]
    fn an_edited_policy_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (layout, _lock) = Layout::open(Some(&dir.path().join("data"))).expect("opens");
        let ports = Ports {
            kms: 7600,
            metadata: 7601,
            block: [7602, 7603, 7604],
        };
        files::write(&layout.policy(), "// mine\n", Audience::Owner).expect("writes");
        write_all(&layout, &ports, Path::new("/module.so"), &[DevToken::First], true).expect("writes");
        assert_eq!(
            files::read(&layout.policy()).expect("reads").as_deref(),
            Some("// mine\n")
        );
    }
}
