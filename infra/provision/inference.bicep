// Everything that serving a fine-tuned model on Azure Container Apps needs, in one resource group: the file share that holds
// models and code, the environment with its log workspace and workload profiles, and the container app.
//
// It knows no environment: names, sizes and the key come in as parameters. A parameter with the value null takes its
// default: the resource manager treats null as "not given" (github.com/Azure/bicep/pull/11532). So plain parameters with
// defaults do, without nullable types: any compiler builds them, and all to the same JSON. Parameters and default names are
// those of the AI Toolkit's own templates, so a resource group that its fine-tuning made is adopted: what exists is updated,
// what is missing is created.
//
// inference.json beside this file is this file compiled: `bicep build infra/provision/inference.bicep`.

@description('Lines of the shell script that a replica runs (/bin/sh). The default waits for the first release on the share, then starts it.')
param defaultCommands array = [
  'set -eu'
  // As process 1 the shell would otherwise ignore the request to stop and be killed after the whole grace period.
  'trap "exit 143" TERM INT'
  'if [ ! -s "$INFERENCE_SHARE/current" ]; then echo "No release on the share yet: waiting for $INFERENCE_SHARE/current, which a deploy writes."; fi'
  'until [ -s "$INFERENCE_SHARE/current" ]; do sleep 1; done'
  'exec sh "$INFERENCE_SHARE/$(cat "$INFERENCE_SHARE/current")/inference/start.sh"'
]

@description('Most replicas at a time. A GPU profile has one GPU per replica. A changed app starts beside the old one: it needs room (or quota) for one replica more, or it waits.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 1

@description('Azure region of all resources.')
param location string = resourceGroup().location

@description('End of all default names.')
param resourceSuffix string = take(uniqueString(resourceGroup().id), 5)

@description('Storage account that holds the file share: 3 to 24 lower-case letters and digits, unique in all of Azure.')
@minLength(3)
@maxLength(24)
param storageAccountName string = 'aistorage${resourceSuffix}'

@description('File share with the models (written by fine-tuning), the adapters and the releases of the inference code.')
@minLength(3)
@maxLength(63)
param fileShareName string = 'aifileshare${resourceSuffix}'

@description('Container Apps environment.')
param acaEnvironmentName string = 'aienv${resourceSuffix}'

@description('Name under which the Container Apps environment knows the file share.')
param acaEnvironmentStorageName string = 'aienvstorage${resourceSuffix}'

@description('Container app: 2 to 32 lower-case letters, digits and hyphens.')
@minLength(2)
@maxLength(32)
param acaAppName string = 'aiacaapp${resourceSuffix}'

@description('Log Analytics workspace that receives the logs of the app.')
@minLength(4)
@maxLength(63)
param acaLogAnalyticsName string = 'ailog${resourceSuffix}'

@description('Key that every request must bring (Authorization: Bearer). At least 16 characters; it becomes a secret of the container app.')
@secure()
@minLength(16)
param apiKey string

@description('Keys of further callers, each with the name that log, metrics and limits know it by: name=key, separated by commas or line ends. They become one more secret of the container app.')
@secure()
param apiKeys string = ''

@description('Most requests that each key may begin in a minute, at each replica; more get 429. 0 is no limit.')
@minValue(0)
@maxValue(1000000)
param requestsPerMinutePerKey int = 0

@description('Most requests of each key under way at once, at each replica; more get 429. 0 is no limit.')
@minValue(0)
@maxValue(1000000)
param concurrentRequestsPerKey int = 0

@description('Limits of single keys, which go before those of every key: {name: {requestsPerMinute, concurrentRequests}}, one of the two or both. The first key is called default.')
param keyLimits object = {}

@description('Container image: any one with /bin/sh and a Python of the version that the locked dependencies support.')
param image string = 'docker.io/library/python:3.12.12-slim-bookworm'

@description('Machine a replica runs on. Consumption has no GPU; Consumption-GPU-* are serverless GPUs; NC24-A100 is a dedicated node and needs its own quota.')
@allowed([
  'Consumption'
  'Consumption-GPU-NC8as-T4'
  'Consumption-GPU-NC24-A100'
  'NC24-A100'
])
param workloadProfileType string = 'Consumption'

@description('Name of that profile in the environment. GPU is what the AI Toolkit calls the profile of its fine-tuning job. Unused for Consumption, whose name is fixed.')
@minLength(1)
@maxLength(15)
param workloadProfileName string = 'GPU'

@description('Further workload profiles that the environment must keep because other apps or jobs use them, each {name, workloadProfileType} and, for dedicated ones, {minimumCount, maximumCount}.')
param additionalWorkloadProfiles array = []

@description('Cores of a replica, a decimal number as text. The default is all that a replica of the profile can have.')
param cpu string = workloadProfileType == 'Consumption' ? '4' : (workloadProfileType == 'Consumption-GPU-NC8as-T4' ? '8' : '24')

@description('Memory of a replica, such as 8Gi. The default is all that a replica of the profile can have. On Consumption it is always twice the cores.')
param memory string = workloadProfileType == 'Consumption' ? '8Gi' : (workloadProfileType == 'Consumption-GPU-NC8as-T4' ? '56Gi' : '220Gi')

@description('Replicas that run even without requests. 0 costs nothing while idle; the first request then waits for a start.')
@minValue(0)
@maxValue(1000)
param minimumInstanceCount int = 0

@description('Requests in flight per replica above which another replica is started.')
@minValue(1)
param concurrentRequests int = 32

@description('Seconds without a request after which the last replica is stopped.')
@minValue(1)
param cooldownSeconds int = 300

@description('Longest time in seconds from the start of a container until its port is open. The port opens before the model is loaded; only an image without the dependencies, which are then installed first, takes minutes.')
@minValue(10)
@maxValue(2400)
param startupTimeoutSeconds int = 600

@description('Port on which the app listens inside its container.')
@minValue(1)
@maxValue(65535)
param targetPort int = 8000

@description('Size limit of the file share in GiB. What is stored is what is paid for, not the limit.')
@minValue(1)
@maxValue(102400)
param fileShareQuota int = 1024

@description('Days that logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

var mountPath = '/mount'
var volumeName = 'share'
var isConsumption = workloadProfileType == 'Consumption'
var isServerless = startsWith(workloadProfileType, 'Consumption')

// Serverless profiles refuse node counts, dedicated ones require them.
var nodeCounts = isServerless ? {} : {
  minimumCount: minimumInstanceCount
  maximumCount: maximumInstanceCount
}
var gpuProfile = union({
  name: workloadProfileName
  workloadProfileType: workloadProfileType
}, nodeCounts)

// As the server reads them: a number for every key, then others by name. Without any limit there is no variable.
var namedRequestsPerMinute = map(filter(items(keyLimits), key => contains(key.value, 'requestsPerMinute')), key => '${key.key}=${key.value.requestsPerMinute}')
var namedConcurrentRequests = map(filter(items(keyLimits), key => contains(key.value, 'concurrentRequests')), key => '${key.key}=${key.value.concurrentRequests}')
var keyLimitVariables = filter([
  {
    name: 'INFERENCE_KEY_REQUESTS_PER_MINUTE'
    value: join(concat([string(requestsPerMinutePerKey)], namedRequestsPerMinute), ', ')
  }
  {
    name: 'INFERENCE_KEY_CONCURRENT'
    value: join(concat([string(concurrentRequestsPerKey)], namedConcurrentRequests), ', ')
  }
], variable => variable.value != '0')

resource storageAccount 'Microsoft.Storage/storageAccounts@2026-04-01' = {
  name: storageAccountName
  location: location
  sku: {
    name: 'Standard_LRS'
  }
  kind: 'StorageV2'
  properties: {
    // Container Apps mounts a share over SMB with the account key; it knows no other identity for that.
    allowSharedKeyAccess: true
    allowBlobPublicAccess: false
    largeFileSharesState: 'Enabled'
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource fileService 'Microsoft.Storage/storageAccounts/fileServices@2026-04-01' = {
  parent: storageAccount
  name: 'default'
  properties: {
    shareDeleteRetentionPolicy: {
      enabled: true
      days: 7
    }
  }
}

resource fileShare 'Microsoft.Storage/storageAccounts/fileServices/shares@2026-04-01' = {
  parent: fileService
  name: fileShareName
  properties: {
    shareQuota: fileShareQuota
  }
}

resource logAnalytics 'Microsoft.OperationalInsights/workspaces@2026-03-01' = {
  name: acaLogAnalyticsName
  location: location
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: logRetentionDays
  }
}

resource acaEnvironment 'Microsoft.App/managedEnvironments@2025-07-01' = {
  name: acaEnvironmentName
  location: location
  properties: {
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: logAnalytics.properties.customerId
        sharedKey: logAnalytics.listKeys().primarySharedKey
      }
    }
    workloadProfiles: concat([
      {
        name: 'Consumption'
        workloadProfileType: 'Consumption'
      }
    ], isConsumption ? [] : [
      gpuProfile
    ], additionalWorkloadProfiles)
  }
}

resource acaEnvironmentStorage 'Microsoft.App/managedEnvironments/storages@2025-07-01' = {
  parent: acaEnvironment
  name: acaEnvironmentStorageName
  properties: {
    azureFile: {
      accountName: storageAccount.name
      accountKey: storageAccount.listKeys().keys[0].value
      shareName: fileShare.name
      accessMode: 'ReadWrite'
    }
  }
}

resource acaApp 'Microsoft.App/containerApps@2025-07-01' = {
  name: acaAppName
  location: location
  properties: {
    environmentId: acaEnvironment.id
    workloadProfileName: isConsumption ? 'Consumption' : workloadProfileName
    configuration: {
      activeRevisionsMode: 'Single'
      ingress: {
        external: true
        allowInsecure: false
        targetPort: targetPort
        transport: 'auto'
      }
      secrets: [
        {
          name: 'api-key'
          value: apiKey
        }
        // There even without further keys, as a list without entries: Azure takes no secret without a value. Were the secret
        // and its variable conditional, no preview could show the list of variables, since it evaluates nothing that
        // depends on a secure value (github.com/Azure/arm-template-whatif/issues/403), and with the last key the secret
        // would go while the revision that still serves refers to it (github.com/microsoft/azure-container-apps/issues/395).
        {
          name: 'api-keys'
          value: empty(apiKeys) ? ',' : apiKeys
        }
      ]
    }
    template: {
      // Time for running answers to finish after the request to stop.
      terminationGracePeriodSeconds: 60
      containers: [
        {
          name: acaAppName
          image: image
          command: [
            '/bin/sh'
            '-c'
            join(defaultCommands, '\n')
          ]
          env: concat([
            {
              name: 'INFERENCE_SHARE'
              value: mountPath
            }
            {
              name: 'PORT'
              value: string(targetPort)
            }
            {
              name: 'INFERENCE_API_KEY'
              secretRef: 'api-key'
            }
            {
              name: 'INFERENCE_API_KEYS'
              secretRef: 'api-keys'
            }
          ], keyLimitVariables)
          resources: {
            cpu: json(cpu)
            memory: memory
          }
          // All three are given because the platform puts its own in place of a missing one. The service takes at most 10
          // failures and 240 seconds between two attempts.
          probes: [
            {
              type: 'Startup'
              httpGet: {
                path: '/health'
                port: targetPort
              }
              // A start whose dependencies are in the image passes the first attempt; the others come a tenth of the limit apart.
              initialDelaySeconds: 5
              periodSeconds: startupTimeoutSeconds / 10
              timeoutSeconds: 5
              failureThreshold: 10
            }
            {
              type: 'Liveness'
              httpGet: {
                path: '/health'
                port: targetPort
              }
              // Patient, so that a replica busy with a long prompt is not taken for a dead one.
              periodSeconds: 30
              timeoutSeconds: 10
              failureThreshold: 6
            }
            {
              type: 'Readiness'
              httpGet: {
                path: '/ready'
                port: targetPort
              }
              periodSeconds: 5
              timeoutSeconds: 5
              failureThreshold: 3
            }
          ]
          volumeMounts: [
            {
              volumeName: volumeName
              mountPath: mountPath
            }
          ]
        }
      ]
      scale: {
        minReplicas: minimumInstanceCount
        maxReplicas: maximumInstanceCount
        cooldownPeriod: cooldownSeconds
        rules: [
          {
            name: 'http'
            http: {
              metadata: {
                concurrentRequests: string(concurrentRequests)
              }
            }
          }
        ]
      }
      volumes: [
        {
          name: volumeName
          storageType: 'AzureFile'
          storageName: acaEnvironmentStorage.name
        }
      ]
    }
  }
}

// The names of inference.config.json.
output SUBSCRIPTION_ID string = subscription().subscriptionId
output RESOURCE_GROUP_NAME string = resourceGroup().name
output STORAGE_ACCOUNT_NAME string = storageAccount.name
output FILE_SHARE_NAME string = fileShare.name
output ACA_APP_NAME string = acaApp.name
output ACA_APP_ENDPOINT string = 'https://${acaApp.properties.configuration.ingress.fqdn}'
