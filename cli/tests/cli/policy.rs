//! `strongroom policy …`, which needs neither service nor profile.

use crate::support::Home;

const POLICY: &str = r#"@id("hr-reads")
permit (principal in Group::"hr", action == Action::"unwrap", resource)
when { resource.hasTag("team") && resource.getTag("team") == "hr" };

@id("never-by-token")
forbid (principal, action == Action::"unwrap", resource)
when { context.authentication == "bearer" };
"#;

#[test]
fn a_test_says_who_may_what_and_why() {
    let home = Home::new();
    home.write("p.cedar", POLICY);
    home.write("g.toml", "hr = ['alice']\n");
    let run = |rest: &str| {
        let line = format!("policy test --policy {{home}}/p.cedar {rest}");
        home.run(&line.split(' ').collect::<Vec<_>>())
    };
    for (rest, code, words) in [
        (
            "--groups {home}/g.toml --as user:alice unwrap k --tag team=hr",
            0,
            &["allowed", "hr-reads", "p.cedar:1"][..],
        ),
        ("--as user:bob --group hr unwrap k --tag team=hr", 0, &["allowed"]),
        (
            "--groups {home}/g.toml --as user:alice unwrap k",
            4,
            &["denied: no policy permits it"],
        ),
        ("--as user:bob unwrap k --tag team=hr", 4, &["denied"]),
        (
            "--as user:bob --group hr unwrap k --tag team=hr --authentication bearer",
            4,
            &["denied", "never-by-token", "p.cedar:5"],
        ),
        ("--as service:metadata mint k", 4, &["denied"]),
        ("--as alice unwrap k", 2, &[]),
        ("unwrap k", 2, &[]),
        ("--as user:alice destroy k", 2, &[]),
        ("--as user:alice unwrap k --tag team", 2, &[]),
        ("--groups {home}/none.toml --as user:alice unwrap k", 3, &[]),
    ] {
        let outcome = run(rest);
        assert_eq!(outcome.code, Some(code), "{rest}: {outcome:?}");
        for word in words {
            assert!(outcome.stdout.contains(word), "{rest}: {outcome:?}");
        }
    }
    let json = run("--as user:bob --group hr unwrap k --tag team=hr --json").stdout;
    assert_eq!(
        json.trim(),
        r#"{"allowed":true,"policies":[{"id":"hr-reads","line":1}]}"#
    );
}

#[test]
fn a_check_finds_what_is_wrong() {
    let home = Home::new();
    home.write("good.cedar", POLICY);
    home.write(
        "bad.cedar",
        "permit (principal, action, resource);\npermit (principal, action == Action::\"fly\", resource);",
    );
    let good = home.run(&["policy", "check", "{home}/good.cedar"]);
    assert_eq!((good.code, good.stdout.trim()), (Some(0), "valid: 2 policies"));
    let bad = home.run(&["policy", "check", "{home}/bad.cedar"]);
    assert_eq!(bad.code, Some(2));
    assert!(
        bad.stderr.contains("bad.cedar:2: ") && bad.stderr.contains("fly"),
        "{bad:?}"
    );
    assert_eq!(home.run(&["policy", "check", "{home}/none.cedar"]).code, Some(3));
}

#[test]
fn hadoop_acls_become_policies_that_can_be_tested() {
    let home = Home::new();
    let acls = "<configuration><property><name>key.acl.payroll.DECRYPT_EEK</name><value>alice hr</value></property>\
                <property><name>hadoop.kms.acl.GET</name><value> </value></property></configuration>";
    home.write("kms-acls.xml", acls);
    let import = ["policy", "import-hadoop", "{home}/kms-acls.xml", "-o", "{home}/p.cedar"];
    let imported = home.run(&import);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    assert!(imported.stderr.contains("hadoop.kms.acl.GET"), "{imported:?}");
    assert_eq!(home.run(&import).code, Some(8), "a policy file is not overwritten");
    for (who, key, code) in [
        ("user:alice", "payroll", 0),
        ("user:bob", "payroll", 4),
        ("user:alice", "other", 4),
    ] {
        let test = [
            "policy",
            "test",
            "--policy",
            "{home}/p.cedar",
            "--as",
            who,
            "unwrap",
            key,
        ];
        let outcome = home.run(&test);
        assert_eq!(outcome.code, Some(code), "{who} {key}: {outcome:?}");
    }
}
