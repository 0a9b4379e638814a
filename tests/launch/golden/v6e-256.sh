# tpu_vm.sh create
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources create byol --node-id=byol --accelerator-type=v6e-256 --labels=byol-jax-launch=byol --runtime-version=v2-alpha-tpuv6e --spot --project=my-project --zone=my-zone --quiet
# tpu_vm.sh setup
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
git archive --format=tar.gz --output=/tmp/byol_jax-0123456789abcdef0123456789abcdef01234567.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus queued-resources scp /tmp/byol_jax-0123456789abcdef0123456789abcdef01234567.tar.gz byol: --worker=all --batch-size=all --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=all --batch-size=all '--command=c=0123456789abcdef0123456789abcdef01234567 && mkdir -p byol_jax && cd byol_jax && { test -d $c || { rm -rf part && mkdir part && tar -xzf ~/byol_jax-$c.tar.gz -C part && mv -T part $c; }; } && ln -sfn $c current && current/launch/setup_vm.sh install' --project=my-project --zone=my-zone --quiet
# tpu_vm.sh run
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources create byol --node-id=byol --accelerator-type=v6e-256 --labels=byol-jax-launch=byol --runtime-version=v2-alpha-tpuv6e --spot --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=0 --batch-size=all '--command=byol_jax/current/launch/setup_vm.sh status byol' --project=my-project --zone=my-zone --quiet
git archive --format=tar.gz --output=/tmp/byol_jax-0123456789abcdef0123456789abcdef01234567.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus queued-resources scp /tmp/byol_jax-0123456789abcdef0123456789abcdef01234567.tar.gz byol: --worker=all --batch-size=all --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=all --batch-size=all '--command=c=0123456789abcdef0123456789abcdef01234567 && mkdir -p byol_jax && cd byol_jax && { test -d $c || { rm -rf part && mkdir part && tar -xzf ~/byol_jax-$c.tar.gz -C part && mv -T part $c; }; } && ln -sfn $c current && current/launch/setup_vm.sh install' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=all --batch-size=all '--command=BYOL_JAX_JOB_TOKEN=TOKEN byol_jax/current/launch/setup_vm.sh start byol 1-0 120 pretrain --distributed=gce --config=pretrain:1000 --workdir=gs://bucket/run '\''--config.data_dir=/it'\''\'\'''\''s "my" $DATA; é'\''' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=0 --batch-size=all '--command=byol_jax/current/launch/setup_vm.sh status byol' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=all --batch-size=all '--command=byol_jax/current/launch/setup_vm.sh status byol' --project=my-project --zone=my-zone --quiet
# tpu_vm.sh status
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=all --batch-size=all '--command=byol_jax/current/launch/setup_vm.sh status byol' --project=my-project --zone=my-zone --quiet
# tpu_vm.sh logs
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=0 --batch-size=all '--command=tail -n 50 -F byol_jax/jobs/byol/log' --project=my-project --zone=my-zone --quiet
# tpu_vm.sh stop
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources ssh byol --worker=all --batch-size=all '--command=byol_jax/current/launch/setup_vm.sh stop byol 120' --project=my-project --zone=my-zone --quiet
# tpu_vm.sh delete
gcloud compute tpus queued-resources describe byol '--format=value[separator="|"](state.state,tpu.nodeSpec[0].node.labels.byol-jax-launch,tpu.nodeSpec[0].node.acceleratorType,state.failedData.error.message)' --project=my-project --zone=my-zone --quiet
gcloud compute tpus queued-resources delete byol --force --project=my-project --zone=my-zone --quiet
